"""Steps of the job protocol that several tests take, on a real Redis."""

from __future__ import annotations

import time
from typing import Any

from tasks.jobs.changes.edits import Appended
from tasks.jobs.queues import Priority
from tasks.jobs.records import ClipRecord, FilmRecord, Handoff
from tasks.jobs.results import Admission, AdmissionOutcome, Claim, CreateOutcome, Creation
from tasks.jobs.store import JobStore
from tasks.jobs.units import WorkUnit
from tasks.spec.loader import check_spec
from tasks.spec.segments import SegmentSpec
from tests.tasks.conftest import ticket_of

JOB = "aaaa1111"
FILM = FilmRecord("sha256:f", 9, "f", 96, 64, "24", 50, 2.0, 24000, 48000)
LEASE_MS = 2000


def handoff(index: int, **changes: Any) -> Handoff:
    return Handoff(**{"index": index, "state": {"kind": "ltx2.v1", "payload": {}}, **changes})


def create(jobs: JobStore, segments: int = 2, job: str = JOB, priority: Priority = Priority.NORMAL) -> None:
    """A job that was admitted."""
    spec = check_spec({"title": "harbour", "segments": [{"prompt": str(i)} for i in range(segments)]})
    assert jobs.create(job, spec, model="tiny", priority=priority) == Creation(CreateOutcome.CREATED, job)
    assert jobs.admit(None) == Admission(AdmissionOutcome.ADMITTED, job, 0)


def due(jobs: JobStore) -> list[tuple[WorkUnit, str]]:
    return sorted((need.unit, need.why) for need in jobs.survey(JOB))


def announce(jobs: JobStore, unit: WorkUnit) -> int:
    """The ticket of the message about `unit` that is due now, 0 for none."""
    seen = {need.unit: need.ticket for need in jobs.survey(JOB)}
    return ticket_of(jobs.announce(JOB, unit, seen=seen.get(unit, 0)))


def claim_unit(jobs: JobStore, unit: WorkUnit, worker: str = "w") -> Claim:
    """Announce `unit`, and claim it by that message."""
    ticket = announce(jobs, unit)
    claimed = jobs.claim(JOB, unit, ticket, worker)
    assert isinstance(claimed, Claim), claimed
    assert claimed.unit == unit
    return claimed


def claim(jobs: JobStore, index: int, worker: str = "w") -> Claim:
    """The claim on the segment at the cursor, whose message is marked as sent."""
    claimed = claim_unit(jobs, WorkUnit.segment(index), worker)
    jobs.chained(JOB, index)
    return claimed


def commit(jobs: JobStore, held: Claim, made: Handoff | None = None) -> Claim:
    """Commit a segment; the claim on its clip."""
    committed = jobs.commit_segment(held, made or handoff(held.index))
    assert committed
    return committed.clip


def commit_all(jobs: JobStore, segments: int) -> None:
    """Commit the first segments and their clips."""
    for index in range(segments):
        clip = commit(jobs, claim(jobs, index))
        committed = jobs.commit_clip(clip, ClipRecord(index, "sha256:c", 1, 1))
        assert committed.accepted
        assert (committed.film is not None) == (index + 1 == jobs.status(JOB).segments)


def end_lease(jobs: JobStore, held: Claim, **changes: Any) -> None:
    """Let the lease of `held` end."""
    jobs._lease_ms = 1
    assert jobs.renew(held, **changes)
    jobs._lease_ms = LEASE_MS
    time.sleep(0.005)


def expire(jobs: JobStore, held: Claim) -> None:
    """Let the lease of `held` end, and have a survey take the claim back."""
    end_lease(jobs, held)
    assert (held.unit, "expired") in due(jobs)


def create_with(
    jobs: JobStore, segments: int = 2, *, needs: int = 0, budget: int | None = None, **changes: Any
) -> None:
    """A job with `open` or `approve`, admitted if there is room."""
    wanted = [{"prompt": str(i)} for i in range(segments)]
    jobs.create(JOB, check_spec({"segments": wanted, **changes}), model="tiny", needs_bytes=needs)
    jobs.admit(budget)


def append_prompts(
    jobs: JobStore, *prompts: str, needs: int = 0, budget: int | None = None, **options: Any
) -> Appended:
    segments = [SegmentSpec(prompt=prompt) for prompt in prompts]
    return jobs.append(JOB, segments, needs_bytes=needs, budget_bytes=budget, **options)


def finish_film(jobs: JobStore) -> None:
    """Commit the film."""
    assert jobs.commit_film(claim_unit(jobs, WorkUnit.film()), FILM)


def may_begin(jobs: JobStore) -> list[int]:
    """The segments that can be announced now, one of them after the other."""
    return [index for index in range(7) if jobs.announce(JOB, WorkUnit.segment(index))]
