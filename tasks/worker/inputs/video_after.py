"""A job whose last segment leads into a video: what that segment is given of it, and the end of its clip.

The client stores the video's first frames and their sound. Only a worker has the model that encodes them; each
rendering of the segment does so again, and gets the same latents.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltx2.media.crossfade import crossfaded_into
from ltx2.media.sources.lead_in import lead_in
from ltx2.request import PinnedEnd, VideoAfter
from tasks.errors import MessageError
from tasks.jobs import state_wire
from tasks.jobs.results import Claim
from tasks.jobs.units import START_INDEX, VIDEO_AFTER_INDEX
from tasks.worker.claims.failures import reading_from
from tasks.worker.context import WorkerContext
from tasks.worker.inputs.source_video import video_sound


def frames_after(context: WorkerContext, claim: Claim) -> NDArray[np.uint8] | None:
    """The first frames of the video that a segment leads into, uint8 `[v, H, W, 3]`; None: it leads into none.

    Raises:
        InputLostError: they are missing or damaged.
    """
    if not claim.head.before or claim.following is not None:
        return None
    video = context.deployment.jobs.handoff(claim.job_id, VIDEO_AFTER_INDEX)
    if video is None:
        raise MessageError(f"the record of job {claim.job_id} lacks the video that follows its last segment")
    with reading_from(START_INDEX):
        return np.stack(state_wire.decode(video.state, context.deployment.blobs).video_frames or [])


def video_after(context: WorkerContext, claim: Claim, engine: Any) -> VideoAfter | None:
    """The end of a segment that leads into a video; None: it leads into none.

    Raises:
        InputLostError: a part of the video is missing or damaged. SpecError: the blob of its sound is not sound.
    """
    frames = frames_after(context, claim)
    if frames is None:
        return None
    heard = lead_in(claim.timing, video_sound(context, claim), len(frames))
    return VideoAfter(frames, engine.encode_sound(heard.sound, heard.latents, lead=heard.lead))


def led_into(frames: NDArray[np.uint8], end: PinnedEnd | VideoAfter | None) -> NDArray[np.uint8]:
    """The frames of a segment as its clip shows them: their end is crossfaded with the video that it leads into."""
    return crossfaded_into(frames, end.pictures) if isinstance(end, VideoAfter) else frames
