"""The end of a video as a continuation state: its numbers and frames, and the sound that is to be encoded for it.

The last frames of a video stand for the end of a first segment: `first_timing` gives the numbers of its state. A video
that is shorter than a segment has less sound before its frames: its offset is what is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from ltx2.media.sources.excerpts import Excerpt, Wanted
from ltx2.media.sources.pictures import Fit
from ltx2.state.continuation import LTX2ContinuationState
from ltx2.state.renderable import AUDIO_SPACE, NORMALISED
from ltx2.timeline import AUDIO_LATENTS_PER_SECOND, SegmentShape, first_timing, round_half_up

SOUND_RATE = 16_000
LEAD = 16
"""Latents of sound before the first pinned one, which an encoder needs; fewer where the video begins later."""
SAMPLES_PER_LATENT = SOUND_RATE // AUDIO_LATENTS_PER_SECOND
_LATENT = Fraction(1, AUDIO_LATENTS_PER_SECOND)


@dataclass(frozen=True, slots=True)
class Extension:
    """What a job needs to continue a video. state: without its audio latents.

    sound: `[samples, 2]` at 16 kHz, 640 for each pinned latent and for each latent of lead before them. available: how
    many frames the video has at the job's rate.
    """

    state: LTX2ContinuationState
    sound: NDArray[np.float32]
    available: int


def wanted_of(shape: SegmentShape, width: int, height: int, fit: Fit) -> Wanted:
    """What is to be read of a video so that segments of this shape and size continue it."""
    before = shape.prefix_seconds + (LEAD + 1) * _LATENT
    return Wanted(width, height, fit, shape.fps, shape.overlap, before, SOUND_RATE)


def extension_of(ending: Excerpt, shape: SegmentShape) -> Extension:
    """The state after a video that ends so. ending: read as `wanted_of` says."""
    pinned, offset = _numbers(shape, ending.available)
    lead = min(LEAD, int((Fraction(ending.before, SOUND_RATE) - offset) / _LATENT))
    start = ending.before - round_half_up(offset * SOUND_RATE) - max(0, lead) * SAMPLES_PER_LATENT
    sound = np.pad(ending.sound[max(0, start) :], ((max(0, -start), 0), (0, 0)))
    length = (max(0, lead) + pinned) * SAMPLES_PER_LATENT
    sound = np.pad(sound[:length], ((0, max(0, length - len(sound))), (0, 0)))
    state = LTX2ContinuationState(
        video_frames=list(ending.frames),
        audio_conditioning_num_frames=pinned,
        audio_conditioning_strength=0.0,
        video_position_offset_sec=float(offset),
        metadata={AUDIO_SPACE: NORMALISED},
    )
    return Extension(state, sound, ending.available)


def lead_of(sound: NDArray[np.float32], pinned: int) -> int:
    """How many latents of an extension's `sound` come before the pinned ones."""
    return len(sound) // SAMPLES_PER_LATENT - pinned


def _numbers(shape: SegmentShape, available: int) -> tuple[int, Fraction]:
    """Pinned audio latents and video offset, in seconds, of the segment that follows `available` frames."""
    if available >= shape.frames:
        timing = first_timing(shape)
        return timing.next_pinned, timing.next_offset
    offset = min(shape.prefix_seconds, (available - shape.overlap) / shape.fps)
    return round_half_up(AUDIO_LATENTS_PER_SECOND * (offset + shape.overlap / shape.fps)), offset
