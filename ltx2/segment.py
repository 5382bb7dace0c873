"""What goes into an engine and what comes out of it; importing this loads neither torch nor a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ltx2.continuation import LTX2ContinuationState
from ltx2.timeline import SegmentTiming

if TYPE_CHECKING:
    from torch import Tensor

OnStep = Callable[[int, int], bool | None]


@dataclass(frozen=True, slots=True)
class SegmentRequest:
    """One segment to render. width, height: pixels, multiples of 32 (else ValueError). seed: 0 .. 2**63 - 1."""

    prompt: str
    seed: int
    width: int
    height: int
    timing: SegmentTiming

    def __post_init__(self) -> None:
        for name, pixels in (("width", self.width), ("height", self.height)):
            if pixels <= 0 or pixels % 32:
                raise ValueError(f"{name} is {pixels}; it must be a positive multiple of 32")


@dataclass(frozen=True, slots=True)
class SegmentOutput:
    """One rendered segment, on the CPU.

    frames: uint8 `[n, H, W, 3]`, the repeated ones included. sound: float32 `[samples, channels]` in [-1, 1]
    at `audio_rate`, (4T - 3) * 10 ms of it. video_latents: `[1, C, F, H/32, W/32]` as the VAE decodes them.
    audio_latents: `[1, 8, T, 16]`, normalised. state: what the next segment continues from.
    """

    frames: NDArray[np.uint8]
    sound: NDArray[np.float32]
    audio_rate: int
    video_latents: Tensor
    audio_latents: Tensor
    state: LTX2ContinuationState
