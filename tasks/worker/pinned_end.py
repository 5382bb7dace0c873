"""Loads the end that a take leads into."""

from __future__ import annotations

from ltx2.request import PinnedEnd
from tasks.errors import MessageError
from tasks.jobs.results import Claim
from tasks.jobs.units import UnitKind
from tasks.worker.context import WorkerContext
from tasks.worker.failures import reading_from


def pinned_end(context: WorkerContext, claim: Claim) -> PinnedEnd | None:
    """The end of the take that the next segment continues; None for a segment, and for a take that nothing continues.

    Raises:
        InputLostError: its latents are missing or damaged.
    """
    from ltx2.state.arrays import decode_latents

    if claim.unit.kind != UnitKind.TAKE or claim.other_take == -1:
        return None
    if claim.other is None or claim.other.latents is None:
        raise MessageError(f"take {claim.other_take} of segment {claim.index} of job {claim.job_id} is not rendered")
    with reading_from(claim.index, claim.other_take):
        latents = context.deployment.blobs.get(claim.other.latents)
    video, audio = decode_latents(latents)
    return PinnedEnd(video, audio, claim.other.decoding)
