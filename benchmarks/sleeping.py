"""An engine that sleeps as long as LTX-2.3 takes on an H200, and returns arrays of real size."""

from __future__ import annotations

import os
import time
from typing import Any, Self

import numpy as np
import torch

from benchmarks.natural import natural_film
from ltx2 import LTX2ContinuationState
from ltx2.errors import SegmentCancelledError
from ltx2.request import OnState, OnStep, SegmentOutput, SegmentRequest
from ltx2.timeline import latent_frames, sound_seconds

SCALE = "SLEEPING_SCALE"
STEPS = 8
# Denoising and decoding of 121 frames of 768x512 on one H200, seconds per pixel of a frame.
DENOISE_S, DECODE_S = 2.7 / (768 * 512), 0.4 / (768 * 512)
SOUND_S = 0.096  # the last part of the decoding, the same for all sizes and scales
VIDEO_CHANNELS, AUDIO_CHANNELS, MEL = 128, 8, 16
AUDIO_RATE = 48_000


class SleepingEngine:
    """Takes as long as the real engine, without a GPU."""

    audio_rate = AUDIO_RATE
    sound = (0.0, 0.0)
    """When that of the last segment began and ended, in seconds since the epoch."""

    def __init__(self) -> None:
        self._scale = float(os.environ.get(SCALE, "1"))

    @classmethod
    def load(cls, model: str, **_: Any) -> Self:
        """Load nothing."""
        return cls()

    def run(
        self,
        request: SegmentRequest,
        state: LTX2ContinuationState | None = None,
        *,
        on_step: OnStep | None = None,
        on_state: OnState | None = None,
        **_: Any,
    ) -> SegmentOutput:
        """Return one segment after the time that rendering it takes."""
        timing, pixels = request.timing, request.width * request.height
        until = time.monotonic()
        for step in range(1, STEPS + 1):
            until += DENOISE_S * pixels / STEPS * self._scale
            time.sleep(max(0.0, until - time.monotonic()))
            if on_step and on_step(step, STEPS) is False:
                raise SegmentCancelledError(f"segment {timing.index} was cancelled after step {step}")
        until = time.monotonic() + DECODE_S * pixels * self._scale
        count, rows, columns = timing.shape.frames, request.height // 32, request.width // 32
        noise = torch.Generator().manual_seed(request.seed)
        video = torch.randn(1, VIDEO_CHANNELS, latent_frames(count), rows, columns, generator=noise).bfloat16()
        audio = torch.randn(1, AUDIO_CHANNELS, timing.audio_latents, MEL, generator=noise)
        frames = natural_film(request.width, request.height, count)
        tail = frames[-timing.shape.overlap :] ^ np.uint8(request.seed & 1)  # so that no two blobs are equal
        tail[:, 0, 0, 0] = request.seed & 255
        sound = torch.rand(int(sound_seconds(timing.audio_latents) * AUDIO_RATE), 2, generator=noise).numpy() - 0.5
        following = LTX2ContinuationState(
            segment_index=timing.index,
            video_frames=list(tail),
            audio_latents=audio,
            audio_sample_rate=AUDIO_RATE,
            audio_conditioning_num_frames=timing.next_pinned,
            audio_conditioning_strength=0.0,
            video_position_offset_sec=float(timing.next_offset),
        )
        time.sleep(max(0.0, until - SOUND_S - time.monotonic()))
        began, now = time.time(), time.monotonic()
        self.sound = (began, began + max(0.0, until - now))
        if on_state:
            on_state(following, video, audio)
        time.sleep(max(0.0, until - time.monotonic()))
        return SegmentOutput(frames, sound, AUDIO_RATE, video, audio, following)

    def decode(self, video_latents: Any, audio_latents: Any) -> tuple[Any, Any]:
        """Not needed: a benchmark loses no blobs, so it decodes nothing again."""
        raise NotImplementedError
