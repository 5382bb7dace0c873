"""Loads the end that a rendering leads into."""

from __future__ import annotations

from typing import Any

from ltx2.request import PinnedEnd, VideoAfter
from tasks.errors import MessageError
from tasks.jobs.results import Claim
from tasks.jobs.units import UnitKind
from tasks.worker.claims.failures import reading_from
from tasks.worker.context import WorkerContext
from tasks.worker.inputs.video_after import video_after


def pinned_end(context: WorkerContext, claim: Claim, engine: Any) -> PinnedEnd | VideoAfter | None:
    """Of a take, the end of the one that the next segment continues; of the last segment of a job, the video after it.

    None for other segments, and for other takes.

    Raises:
        InputLostError: it is missing or damaged. SpecError: the stored sound of the video is not sound.
    """
    from ltx2.state.arrays import decode_latents

    if claim.unit.kind != UnitKind.TAKE or claim.other_take == -1:
        return video_after(context, claim, engine)
    if claim.other is None or claim.other.latents is None:
        raise MessageError(f"take {claim.other_take} of segment {claim.index} of job {claim.job_id} is not rendered")
    with reading_from(claim.index, claim.other_take):
        latents = context.deployment.blobs.get(claim.other.latents)
    video, audio = decode_latents(latents)
    return PinnedEnd(video, audio, claim.other.decoding)
