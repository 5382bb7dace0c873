"""The sound that a spec gives to its film: a segment's part of it, as latents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ltx2.errors import MediaError
from ltx2.media.sources.slices import Track, window_of
from ltx2.timeline import SegmentTiming
from tasks.errors import SpecError
from tasks.jobs.units import START_INDEX
from tasks.spec.head import JobHead
from tasks.worker.claims.failures import reading_from
from tasks.worker.context import WorkerContext

if TYPE_CHECKING:
    from torch import Tensor


def given_track(context: WorkerContext, head: JobHead) -> Track | None:
    """The sound of a job's film; None if it is not given.

    Raises:
        InputLostError: its blob is missing or damaged.
    """
    if head.audio is None:
        return None
    with reading_from(START_INDEX):
        return context.tracks.get(head.audio, context.deployment.blobs.get)


def given_sound(context: WorkerContext, head: JobHead, engine: Any, timing: SegmentTiming) -> Tensor | None:
    """All audio latents of a segment whose sound is given, else None.

    They depend on the track and the segment's place in the film only, so that a repair gets the same ones.

    Raises:
        InputLostError: the track's blob is missing or damaged. SpecError: the blob is not sound.
    """
    track = given_track(context, head)
    if track is None:
        return None
    window = window_of(timing)
    try:
        sound = track.window(window)
    except MediaError as error:
        raise SpecError(f"audio: blob {head.audio} in the job's record: {error}") from None
    latents: Tensor = engine.encode_sound(sound, timing.audio_latents, lead=window.lead)
    return latents
