"""The life of job records: created, admitted, paused, ended, kept, deleted."""

from __future__ import annotations

import hashlib
import json
import secrets
from typing import Any, cast

from tasks.errors import JobStateError
from tasks.jobs.changes.writer import JobWriter, new_token
from tasks.jobs.committed import Committed
from tasks.jobs.keys import (
    ACTIVE,
    ENDED,
    IDEMPOTENCY,
    JOBS,
    RECORD_AFFIXES,
    RESERVED,
    SUBMITTING,
    WAITING,
    job_keys,
)
from tasks.jobs.queues import Priority
from tasks.jobs.reading.status import no_such_job
from tasks.jobs.records import ForkOrigin, Submission, pack_head, pack_segment
from tasks.jobs.results import Admission, AdmissionOutcome, CreateOutcome, Creation
from tasks.jobs.units import JobState
from tasks.spec.schema import JobSpec


def new_job_id() -> str:
    """A random job id, 16 characters."""
    return secrets.token_hex(8)


class LifetimeStore(JobWriter):
    """Creates and ends the jobs of one deployment."""

    def create(
        self,
        job_id: str,
        spec: JobSpec,
        *,
        model: str,
        needs_bytes: int = 0,
        stored_bytes: int = 0,
        budget_bytes: int | None = None,
        committed: Committed | None = None,
        submission: Submission | None = None,
        priority: Priority = Priority.NORMAL,
        fork_of: ForkOrigin | None = None,
    ) -> Creation:
        """Write the record of a new job that renders with `model`, unless the id or the idempotency key is taken.

        It waits to be admitted: `needs_bytes` of the blob store are what it may use. If the submission names blobs, it
        does so only after `submitted`; their `stored_bytes` are reserved at once, if `budget_bytes` (None: no limit)
        has room. committed: what it starts from; it goes on with the segment after that. Clips that are missing there
        are due. submission: default: a request that is never repeated. priority: HIGH goes before all others.
        fork_of: where `committed` is from, for people.
        """
        committed = committed or Committed()
        cursor = len(committed.handoffs)
        record: dict[str, Any] = {"title": spec.title, "segments": len(spec.segments)}
        record |= {"cursor": cursor, "chained": cursor - 1}
        record |= {"open": 1} if spec.open else {}
        record |= {"approved": cursor} if spec.approve else {}
        record |= {"next_part": cursor + 1} if spec.has_parallel_parts(cursor) else {}
        record |= {"priority": Priority.HIGH} if priority == Priority.HIGH else {}
        record |= {"fork_of": fork_of.job_id, "fork_after": fork_of.after} if fork_of else {}
        record |= _request(submission or Submission(new_token()), needs_bytes, stored_bytes)
        head = spec.head.model_copy(update={"model": model})
        fields = {"job": pack_head(head)}
        fields |= {str(i): pack_segment(segment) for i, segment in enumerate(spec.segments)}
        handoffs = [*committed.given, *committed.handoffs]
        packed = {str(handoff.index): handoff.pack() for handoff in handoffs}
        clips = {str(index): clip.pack() for index, clip in committed.clips.items()}
        return self._create(job_id, [record, fields, packed, clips, committed.takes.fields()], budget_bytes)

    def foresee(
        self, job_id: str, submission: Submission, *, needs_bytes: int, stored_bytes: int, budget_bytes: int | None
    ) -> Creation:
        """What `create` would return now; writes nothing."""
        record = _request(submission, needs_bytes, stored_bytes)
        return self._create(job_id, [record, {}, {}, {}, {}], budget_bytes, dry_run=True)

    def _create(
        self, job_id: str, groups: list[dict[str, Any]], budget_bytes: int | None, *, dry_run: bool = False
    ) -> Creation:
        """Run the script with the fields of record, spec, handoffs, clips and takes."""
        pairs = [part for group in groups for item in group.items() for part in item]
        keys = [*job_keys(job_id, "record", "spec", "handoffs", "clips", "units"), JOBS, ACTIVE, WAITING, SUBMITTING]
        args = [job_id, *RECORD_AFFIXES, budget_bytes or 0, int(dry_run), *map(len, groups), *pairs]
        outcome, known = self._run("create", [*keys, IDEMPOTENCY, RESERVED, *job_keys(job_id, "takes")], *args)
        return Creation(CreateOutcome(outcome.decode()), known.decode())

    def submitted(self, job_id: str) -> None:
        """Have a job whose blobs are pinned wait for its admission.

        Raises:
            JobNotFoundError: no such job.
        """
        self._transition(job_id, "submit")

    def admit(self, budget_bytes: int | None) -> Admission:
        """Give room to the job that has waited for it longest; call it again until the outcome is WAIT."""
        outcome, job_id, needs = self._run("admit", [WAITING, RESERVED, ACTIVE], budget_bytes or 0, *RECORD_AFFIXES)
        return Admission(AdmissionOutcome(outcome.decode()), job_id.decode(errors="replace"), int(needs))

    def settle(self, job_id: str, used_bytes: int, *, reserved: int | None) -> None:
        """Reduce what is reserved for an ended job to what its blobs take.

        reserved: what `unsettled` said before they were counted; if it has changed since, nothing happens.
        """
        seen = "" if reserved is None else reserved
        self._run("settle", [*job_keys(job_id, "record"), RESERVED], job_id, used_bytes, seen)

    # Each of these has a random token, and the record keeps the recent ones: a request that is sent again, because its
    # reply was lost, changes nothing and gets the same answer.

    def stop(self, job_id: str, state: JobState, reason: str, *, request: str = "") -> JobState:
        """End an unfinished job as `state`; returns the state it was in.

        request: the token of a request that may be made again; default: a new one.

        Raises:
            JobNotFoundError: no such job.
        """
        return self._transition(job_id, "stop", state, reason, request=request or new_token())

    def pause(self, job_id: str, *, request: str = "") -> JobState:
        """Hand out no more work of a queued or running job; returns the state it was in.

        request: see `stop`.

        Raises:
            JobNotFoundError: no such job.
        """
        return self._transition(job_id, "pause", request=request or new_token())

    def resume(self, job_id: str, *, request: str = "") -> JobState:
        """Hand out the work of a paused job again; returns the state it was in.

        request: see `stop`.

        Raises:
            JobNotFoundError: no such job.
        """
        return self._transition(job_id, "resume", request=request or new_token())

    def revive(self, job_id: str, state: JobState, *, request: str = "") -> JobState:
        """Continue a job that ended as `state` where it ended; returns the state it was in.

        request: see `stop`.

        Raises:
            JobNotFoundError: no such job.
        """
        return self._transition(job_id, "revive", state, request=request or new_token())

    def keep(self, job_id: str, seconds: float | None) -> None:
        """Keep a job `seconds` from now, also beyond its retention; None: as long as nobody says otherwise.

        Raises:
            JobNotFoundError: no such job.
        """
        self._keep(job_id, "" if seconds is None else int(seconds * 1000))

    def unkeep(self, job_id: str) -> None:
        """Keep a job no longer than its retention.

        Raises:
            JobNotFoundError: no such job.
        """
        self._keep(job_id, "no")

    def _keep(self, job_id: str, how_long: str | int) -> None:
        if not self._run("keep", job_keys(job_id, "record"), how_long):
            raise no_such_job(job_id)

    def delete(self, job_id: str, *, unless_kept: bool = False) -> None:
        """Delete the record of a job that has ended. unless_kept: not of one that is kept beyond its retention.

        Raises:
            JobStateError: it is unfinished, or kept.
        """
        keys = [*job_keys(job_id, "record", "spec", "units", "handoffs", "clips"), JOBS, ENDED, WAITING, RESERVED]
        keys += [SUBMITTING, IDEMPOTENCY, *job_keys(job_id, "events", "pieces", "webhooks", "takes")]
        if not self._run("delete", keys, job_id, int(unless_kept)):
            why = "has not ended, or is kept" if unless_kept else "has not ended; cancel it first"
            raise JobStateError(f"job {job_id} {why}")

    def _transition(
        self, job_id: str, action: str, state: str = "", reason: str = "", *, request: str = ""
    ) -> JobState:
        keys = [*job_keys(job_id, "record", "units", "clips"), ACTIVE, ENDED, WAITING, SUBMITTING]
        keys += job_keys(job_id, "takes")
        was = cast("bytes", self._run("transition", keys, job_id, action, state, reason, request)).decode()
        if not was:
            raise no_such_job(job_id)
        return JobState(was)


def _request(submission: Submission, needs_bytes: int, stored_bytes: int) -> dict[str, Any]:
    """The fields of a record on which it depends whether the job is created."""
    record: dict[str, Any] = {"request": submission.request, "needs_bytes": needs_bytes}
    if submission.key:
        record |= {"idempotency": hashlib.sha256(submission.key.encode()).hexdigest(), "digest": submission.digest}
    if submission.blobs:
        record |= {"unpinned": json.dumps(submission.blobs), "stored": stored_bytes}
    return record
