"""The beginning of a video as the end of a segment: its frames, and the sound that is to be encoded for it.

The segment's last frames are the video's first ones. Its sound is pinned where both sound: from the first of the
segment's audio latents that begins with the video or after it. The encoder also needs the sound before that latent,
which the video does not have: its first samples are mirrored there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from ltx2.media.sources.excerpts import Wanted
from ltx2.media.sources.extension import LEAD, SAMPLES_PER_LATENT, SOUND_RATE
from ltx2.media.sources.pictures import Fit
from ltx2.media.sources.samples import Sound
from ltx2.timeline import AUDIO_LATENTS_PER_SECOND, SegmentShape, SegmentTiming, round_half_up, shared_frames


@dataclass(frozen=True, slots=True)
class LeadIn:
    """The sound at the end of a segment that leads into a video.

    sound: `[samples, 2]` at 16 kHz, 640 samples for each latent. lead: its first latents, which are not pinned.
    latents: how many are pinned.
    """

    sound: Sound
    latents: int
    lead: int


def wanted_beginning(shape: SegmentShape, width: int, height: int, fit: Fit) -> Wanted:
    """What is to be read of a video so that a segment leads into it. shape: of the job's segments."""
    return Wanted(width, height, fit, shape.fps, shared_frames(shape.overlap), Fraction(0), SOUND_RATE)


def lead_in(timing: SegmentTiming, sound: Sound, frames: int) -> LeadIn:
    """The end of a segment's sound. At least one latent of the segment is left to render.

    sound: that of the video at 16 kHz, from its first frame on; silence follows it. frames: how many both share.
    """
    start = timing.offset + (timing.shape.frames - frames) / timing.shape.fps
    first = max(math.ceil(start * AUDIO_LATENTS_PER_SECOND), timing.pinned + 1)
    latents = max(0, timing.audio_latents - first)
    skipped = round_half_up((Fraction(first, AUDIO_LATENTS_PER_SECOND) - start) * SOUND_RATE)
    before = LEAD * SAMPLES_PER_LATENT
    length = skipped + latents * SAMPLES_PER_LATENT
    sound = np.pad(sound[:length], ((0, max(0, length - len(sound))), (0, 0)))
    heard = np.pad(sound, ((before, 0), (0, 0)), mode="symmetric")
    return LeadIn(heard[skipped:], latents, LEAD)
