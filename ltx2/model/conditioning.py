"""Conditioning of a segment on an incoming state, with checks that the engine can render it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltx2.errors import UnsupportedStateError
from ltx2.state.continuation import LTX2ContinuationState
from ltx2.state.renderable import check_renderable, is_normalised
from ltx2.timeline import SegmentTiming, exact


@dataclass(frozen=True, slots=True)
class Conditioning:
    """What a segment is conditioned on.

    frames: uint8 `[v, H, W, 3]`, or None. audio: the kept latents `[1, 8, a, 16]`, float32, or None.
    """

    frames: NDArray[np.uint8] | None = None
    audio: Tensor | None = None
    audio_is_normalised: bool = True


def conditioning_of(
    state: LTX2ContinuationState,
    timing: SegmentTiming,
    *,
    size: tuple[int, int],
    audio_shape: tuple[int, int],
    audio_rate: int | None = None,
) -> Conditioning:
    """The conditioning of a continuation. size: (height, width) in pixels. audio_shape, audio_rate: of the model.

    A state may lack frames or audio latents; then only the other conditions.

    Raises:
        UnsupportedStateError: this engine cannot render the state; the message names field and value.
    """
    offset, kept = exact(state.video_position_offset_sec), state.audio_conditioning_num_frames
    for field, given, expected in (
        ("video_position_offset_sec", offset, timing.offset),
        ("audio_conditioning_num_frames", kept, timing.pinned),
    ):
        if given != expected:
            raise UnsupportedStateError(f"{field} is {getattr(state, field)}; this engine supports only {expected}")
    check_renderable(
        state,
        overlap=timing.shape.overlap,
        size=size,
        audio_latents=timing.audio_latents,
        audio_shape=audio_shape,
        audio_rate=audio_rate,
    )
    latents = state.audio_latents
    return Conditioning(
        frames=np.stack(state.video_frames) if state.video_frames else None,
        audio=latents[:, :, -kept:].to("cpu", torch.float32) if kept and latents is not None else None,
        audio_is_normalised=is_normalised(state),
    )
