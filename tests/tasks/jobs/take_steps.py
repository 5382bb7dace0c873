"""Steps of takes in the job protocol that several tests take, on a real Redis."""

from __future__ import annotations

from typing import Any

from tasks.jobs.committed import TakeRequest
from tasks.jobs.records import ClipRecord, Handoff
from tasks.jobs.results import Claim
from tasks.jobs.store import JobStore
from tasks.jobs.units import WorkUnit
from tests.tasks.jobs.protocol import FILM, JOB, claim, claim_unit, commit, create, due, handoff


def done_job(jobs: JobStore, segments: int) -> JobStore:
    """A job of segments, each a continuation, that is done."""
    create(jobs, segments)
    for index in range(segments):
        one = handoff(index, continued=index > 0, latents=f"latents {index}")
        jobs.commit_clip(commit(jobs, claim(jobs, index), one), ClipRecord(index, f"clip {index}", 1, 1))
    assert jobs.commit_film(claim_unit(jobs, WorkUnit.film()), FILM)
    return jobs


def ask(jobs: JobStore, segment: int, count: int = 1, *, last: int | None = None, **more: Any) -> list[int]:
    """Ask for takes of a segment, or of all up to `last`."""
    segments = range(segment, 1 + (segment if last is None else last))
    several = {} if last is None else {"first": segment, "last": last}
    wanted = [TakeRequest(prompt=f"new {i}", **several) for i in range(count) for _ in segments]
    return jobs.retake(JOB, segments, wanted, **more)


def made(held: Claim, **changes: Any) -> Handoff:
    lineage = {"continued": held.index > 0, "from_take": held.from_take, "pinned_to": held.other_take}
    given = lineage | {"latents": f"take {held.unit.take}"}
    return handoff(held.index, **given | changes)


def take_clip(held: Claim) -> ClipRecord:
    return ClipRecord(held.index, f"clip of take {held.unit.take}", 1, 1, take=held.unit.take)


def render(jobs: JobStore, segment: int, take: int) -> Claim:
    """Render a take that was asked for."""
    held = claim_unit(jobs, WorkUnit.of_take(segment, take))
    assert jobs.commit_take(held, made(held), take_clip(held), changed=False)
    return held


def clip_of(held: Claim, blob_id: str = "new clip") -> ClipRecord:
    return ClipRecord(held.index, blob_id, 1, 1, take=held.own_take, next_take=held.other_take)


def finish(jobs: JobStore) -> None:
    """Make the clips and the film that are due."""
    for unit, _ in due(jobs):
        if unit.kind == "clip":
            held = claim_unit(jobs, unit)
            assert jobs.commit_clip(held, clip_of(held, f"clip {unit.index} of take {held.own_take}")).accepted
    assert jobs.commit_film(claim_unit(jobs, WorkUnit.film()), FILM)


def render_otherwise(jobs: JobStore, segment: int, take: int, *, lost_by: WorkUnit) -> Claim:
    """Render a segment of a take again, with other bytes, because the work `lost_by` lacks it."""
    unit = WorkUnit.of_take(segment, take)
    assert jobs.report_lost(claim_unit(jobs, lost_by), unit)
    again = claim_unit(jobs, unit)
    assert jobs.commit_take(again, made(again, latents="other"), take_clip(again), changed=True)
    return again
