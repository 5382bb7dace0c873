"""A job that extends a video: the sound of its start state, and the frames that its film has in common with the video.

The client stores the video's last frames as the state that the job continues, and the sound before their end. Only a
worker has the model that encodes it; each rendering of segment 0 does so again, and gets the same latents.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ltx2.errors import MediaError
from ltx2.media.sound_file import decode_flac
from ltx2.media.sources.extension import lead_of
from ltx2.media.sources.samples import Sound
from ltx2.timeline import SegmentTiming
from tasks.errors import SpecError
from tasks.jobs.results import Claim
from tasks.jobs.timing import shown_timing
from tasks.jobs.units import START_INDEX
from tasks.worker.claims.failures import reading_from
from tasks.worker.context import WorkerContext
from tasks.worker.inputs.dissolve import dissolved

if TYPE_CHECKING:
    from ltx2 import LTX2ContinuationState


def with_source_sound(
    context: WorkerContext, claim: Claim, engine: Any, state: LTX2ContinuationState | None
) -> LTX2ContinuationState | None:
    """`state`, with its audio latents if it is the end of a video.

    Raises:
        InputLostError: the video's sound is missing or damaged. SpecError: the blob is not sound.
    """
    if not claim.head.continues_video or claim.index > 0 or state is None:
        return state
    sound = video_sound(context, claim)
    pinned = state.audio_conditioning_num_frames
    latents = engine.encode_sound(sound, pinned, lead=lead_of(sound, pinned))
    return replace(state, audio_latents=latents, audio_sample_rate=engine.audio_rate)


def video_sound(context: WorkerContext, claim: Claim) -> Sound:
    """The stored sound of the video that a job extends, `[samples, 2]` at 16 kHz.

    Raises:
        InputLostError: it is missing or damaged. SpecError: the blob is not sound.
    """
    blob_id = str(claim.head.extend)
    with reading_from(START_INDEX):
        data = context.deployment.blobs.get(blob_id)
    try:
        sound, _ = decode_flac(data)
    except MediaError as error:
        raise SpecError(f"extend: blob {blob_id} in the job's record: {error}") from None
    return sound


def as_shown(
    claim: Claim, frames: NDArray[np.uint8], timing: SegmentTiming, tail: list[NDArray[np.uint8]] | None
) -> tuple[NDArray[np.uint8], SegmentTiming]:
    """A segment's frames and timing as the film shows them.

    The first segment after a video also shows the frames that it repeats, crossfaded with the video's own, `tail`.
    """
    shown = shown_timing(timing, claim.previous)
    if shown is timing or not tail:
        return frames, timing
    return dissolved(frames, np.stack(tail)), shown
