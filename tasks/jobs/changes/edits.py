"""Changes of a job that has begun: segments appended, prompts replaced, approved, closed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

from tasks.errors import JobStateError
from tasks.jobs.changes.writer import JobWriter, new_token
from tasks.jobs.keys import ACTIVE, ENDED, RECORD_AFFIXES, RESERVED, SUBMITTING, WAITING, job_keys
from tasks.jobs.reading.specs import read_segment
from tasks.jobs.reading.status import no_such_job
from tasks.jobs.records import DAMAGE, pack_segment
from tasks.spec.segments import MAX_SEGMENTS, SegmentSpec

ANYWHERE = -1


class AppendOutcome(StrEnum):
    """What became of a request to append segments."""

    APPENDED = "appended"
    OTHER = "other"
    """Other segments were appended with the same token."""
    ENDED = "ended"
    """The job failed or was cancelled."""
    LONG = "long"
    """The job would have more than MAX_SEGMENTS."""
    MOVED = "moved"
    """The job has more or fewer segments than the caller expects."""
    FULL = "full"
    """The blob budget has no room for these segments."""


@dataclass(frozen=True, slots=True)
class Appended:
    """The reply to an append. first: the index of the first new segment, or how many segments the job has.

    state: the one in which the job ended. needs_bytes, free_bytes: for FULL, what it lacks and what is free.
    """

    outcome: AppendOutcome
    first: int = 0
    state: str = ""
    needs_bytes: int = 0
    free_bytes: int = 0


class ReplaceOutcome(StrEnum):
    """What became of a request to replace segments."""

    REPLACED = "replaced"
    ABSENT = "absent"
    """The job has no such segment."""
    COMMITTED = "committed"
    """The segment is rendered."""
    CLAIMED = "claimed"
    """A worker renders the segment."""
    BEGUN = "begun"
    """A later segment has begun, and its place in the film would change."""


@dataclass(frozen=True, slots=True)
class Replaced:
    """The reply to a request to replace segments. at: the segment that prevents it, None if they were replaced."""

    outcome: ReplaceOutcome
    at: int | None = None


class EditStore(JobWriter):
    """The job records of one deployment, for changes of jobs that have begun."""

    def append(
        self,
        job_id: str,
        segments: Sequence[SegmentSpec],
        *,
        needs_bytes: int,
        budget_bytes: int | None,
        first: int = ANYWHERE,
        request: str = "",
    ) -> Appended:
        """Add segments to the end of an unfinished job, or of one that is done, which then continues.

        needs_bytes: of the blob store, which are reserved now if `budget_bytes` (None: no limit) has room. first: the
        index that the first one must get. request: the token of a request that may be made again; default: a new one.

        Raises:
            JobNotFoundError: no such job.
        """
        keys = [*job_keys(job_id, "record", "units", "spec", "clips"), ACTIVE, ENDED, WAITING, SUBMITTING, RESERVED]
        args = [job_id, *RECORD_AFFIXES, request or new_token(), budget_bytes or 0, needs_bytes, MAX_SEGMENTS, first]
        packed = [pack_segment(segment) for segment in segments]
        outcome, *reply = self._run("append", keys, *args, *packed)
        if outcome == b"missing":
            raise no_such_job(job_id)
        found = AppendOutcome(outcome.decode())
        if found == AppendOutcome.ENDED:
            return Appended(found, state=reply[0].decode())
        if found == AppendOutcome.FULL:
            return Appended(found, needs_bytes=int(reply[0]), free_bytes=int(reply[1]))
        return Appended(found, first=int(reply[0]))

    def earlier_append(self, job_id: str, request: str) -> int | None:
        """How many segments the job had before an append with this token; None: the record remembers none."""
        stored = cast("bytes | None", self._redis.hget(job_keys(job_id, "record")[0], "requests"))
        with suppress(*DAMAGE):  # a damaged list counts as empty, as in the scripts
            known = (int(first) for token, first, *_ in json.loads(stored or b"[]") if token == request)
            return next((first for first in known if first >= 0), None)
        return None

    def replace_segments(self, job_id: str, changes: Mapping[int, Mapping[str, object]]) -> Replaced:
        """Change fields of the specs of segments that no worker has claimed or committed, all of them or none.

        changes: new values by field, by segment. A length that was found in a prompt is given up with it.

        Raises:
            JobNotFoundError: no such job. VersionError: a newer major version wrote it, or one of these segments.
        """
        record, units, spec = job_keys(job_id, "record", "units", "spec")
        while True:
            stored = cast("list[bytes | None]", self._redis.hmget(spec, [str(index) for index in changes]))
            triples: list[object] = []
            for (index, values), before in zip(changes.items(), stored, strict=True):
                after = pack_segment(_changed(read_segment(before), values)) if before else b""
                triples += [index, before or b"", after]
            outcome, at = self._run("replace_segments", [record, units, spec], *triples)
            if outcome == b"missing":
                raise no_such_job(job_id)
            if outcome == b"replaced":
                return Replaced(ReplaceOutcome.REPLACED)
            if outcome != b"changed":  # by another client, since it was read
                return Replaced(ReplaceOutcome(outcome.decode()), int(at))

    def close_end(self, job_id: str, *, request: str = "") -> bool:
        """Wait for no more segments of an open job; False when it is not open.

        request: see `append`.

        Raises:
            JobNotFoundError: no such job. JobStateError: it has no segment.
        """
        reply = self._run("close", job_keys(job_id, "record"), request or new_token())
        if reply == b"missing":
            raise no_such_job(job_id)
        if reply == b"empty":
            raise JobStateError(f"job {job_id} has no segment, so it cannot be closed; cancel it")
        return bool(reply == b"closed")

    def approve(self, job_id: str, index: int | None) -> None:
        """Approve the segments up to `index`, or with None all, also those to come. It may be repeated.

        Raises:
            JobNotFoundError: no such job. JobStateError: it asks for no approval, or that segment is not rendered.
        """
        reply = self._run("approve", job_keys(job_id, "record"), -1 if index is None else index)
        if reply == b"missing":
            raise no_such_job(job_id)
        if reply == b"not asked":
            raise JobStateError(f"job {job_id} asks for no approval: its spec has no `approve: true`")
        if reply == b"not committed":
            raise JobStateError(f"segment {index} of job {job_id} is not rendered yet, so it cannot be approved")


def _changed(segment: SegmentSpec, values: Mapping[str, object]) -> SegmentSpec:
    before = segment if values.get("prompt", segment.prompt) == segment.prompt else segment.undecided
    return before.model_copy(update=dict(values))
