"""An engine that returns tiny arrays at once, so that only the cost of moving segments is measured."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch

from ltx2 import LTX2ContinuationState
from ltx2.request import SegmentOutput, SegmentRequest
from ltx2.timeline import sound_seconds

AUDIO_RATE = 24_000


class NothingEngine:
    """Returns a dark picture and silence for every segment. Both contain the seed, so that no two blobs are equal."""

    audio_rate = AUDIO_RATE

    @classmethod
    def load(cls, model: str, **_: Any) -> Self:
        """Load nothing."""
        return cls()

    def run(self, request: SegmentRequest, state: LTX2ContinuationState | None = None, **_: Any) -> SegmentOutput:
        """Return one segment."""
        timing = request.timing
        number = request.seed % 2**24
        audio = torch.full((1, 8, timing.audio_latents, 16), float(number))
        frames = np.zeros((timing.shape.frames, request.height, request.width, 3), np.uint8)
        frames[:, 0, 0] = list(number.to_bytes(3, "big"))
        following = LTX2ContinuationState(
            segment_index=timing.index,
            video_frames=list(frames[-timing.shape.overlap :].copy()),
            audio_latents=audio,
            audio_sample_rate=AUDIO_RATE,
            audio_conditioning_num_frames=timing.next_pinned,
            audio_conditioning_strength=0.0,
            video_position_offset_sec=float(timing.next_offset),
        )
        sound = np.zeros((int(sound_seconds(timing.audio_latents) * AUDIO_RATE), 2), np.float32)
        sound[0] = number / 2**24
        return SegmentOutput(frames, sound, AUDIO_RATE, torch.zeros(1, 8, 2, 1, 1), audio, following)

    def decode(self, video_latents: Any, audio_latents: Any) -> tuple[Any, Any]:
        """Not needed: a benchmark loses no blobs, so it decodes nothing again."""
        raise NotImplementedError
