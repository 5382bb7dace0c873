"""What the blob store lost of a job, and how many of its segments another job can still share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from blobstore import ManagedBlobStore
from tasks.errors import JobStateError
from tasks.jobs.records import Handoff
from tasks.jobs.results import JobContents
from tasks.jobs.state_wire import handoff_blobs
from tasks.spec.head import INPUT_FIELDS


@dataclass(frozen=True, slots=True)
class Loss:
    """A part of a job that lost blobs. what: in words. kept: so many leading segments can be shared without it."""

    what: str
    kept: int


def first_loss(blobs: ManagedBlobStore, source: JobContents, count: int) -> Loss | None:
    """The loss that leaves fewest of the first `count` segments; None: these can be shared."""
    return min(_losses(blobs, source, count), key=lambda loss: loss.kept, default=None)


def whole_segments(blobs: ManagedBlobStore, source: JobContents) -> int:
    """How many leading segments of a job can be shared."""
    count = len(source.committed.handoffs)
    loss = first_loss(blobs, source, count)
    return count if loss is None else loss.kept


def lost(loss: Loss, job_id: str, *, otherwise: str) -> JobStateError:
    """The error about a loss. otherwise: what to do if no segment can be shared."""
    advice = f"fork it after segment {loss.kept - 1} or an earlier one" if loss.kept else otherwise
    return JobStateError(f"{loss.what} of job {job_id} are missing: {advice}")


def _losses(blobs: ManagedBlobStore, source: JobContents, count: int) -> Iterator[Loss]:
    def is_lost(handoff: Handoff | None) -> bool:
        return handoff is not None and any(blob_id not in blobs for blob_id in handoff_blobs(handoff))

    committed = source.committed.first(count)
    for field in INPUT_FIELDS:
        blob_id = getattr(source.head, field)
        if blob_id is not None and blob_id not in blobs:
            yield Loss(f"blobs of `{field}`", 0)
    if is_lost(committed.start):
        yield Loss("blobs of the state before segment 0", 0)
    if is_lost(committed.video_after):
        yield Loss("blobs of the video after the last segment", 0)
    for handoff in committed.handoffs:
        if is_lost(handoff):
            yield Loss(f"blobs of segment {handoff.index}", handoff.index)
    for take in committed.takes.needed(committed.handoffs, blobs).takes.values():
        if is_lost(take.made):
            yield Loss(f"blobs of {take}", take.segments[0])
