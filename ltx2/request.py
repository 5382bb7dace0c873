"""Input and output of an engine. Importing this loads neither torch nor a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ltx2.sampling import Decoder, Sampling
from ltx2.state.continuation import LTX2ContinuationState
from ltx2.timeline import SegmentTiming

if TYPE_CHECKING:
    from torch import Tensor

OnStep = Callable[[int, int], bool | None]
OnState = Callable[[LTX2ContinuationState, "Tensor", "Tensor"], None]
"""Receives a segment's new state, video latents and audio latents, the same as in its `SegmentOutput`."""


@dataclass(frozen=True, slots=True)
class SegmentRequest:
    """One segment to render. ValueError: an invalid size or image.

    width, height: pixels, multiples of 32; of 64 with two stages. seed: 0 .. 2**63 - 1. image: uint8 `[H, W, 3]`, the
    first frame of a segment that is not a continuation.
    """

    prompt: str
    seed: int
    width: int
    height: int
    timing: SegmentTiming
    sampling: Sampling = field(default_factory=Sampling)
    image: NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        step = 32 * self.sampling.stages
        for name, pixels in (("width", self.width), ("height", self.height)):
            if pixels <= 0 or pixels % step:
                raise ValueError(f"{name} is {pixels}; it must be a positive multiple of {step}")
        if self.image is None:
            return
        if self.timing.continued:
            raise ValueError(f"segment {self.timing.index} is a continuation and cannot begin with an image")
        shape = (self.height, self.width, 3)
        if self.image.dtype != np.uint8 or self.image.shape != shape:
            raise ValueError(f"image is {self.image.dtype} {self.image.shape}; it must be uint8 {shape}")


@dataclass(frozen=True, slots=True)
class Decoding:
    """How latents became frames. noise_seed: of the noise that the decoder was given; None: it was given none."""

    decoder: Decoder = Decoder.CONVOLUTIONAL
    noise_seed: int | None = None


@dataclass(frozen=True, slots=True)
class SegmentOutput:
    """One rendered segment, on the CPU.

    frames: uint8 `[n, H, W, 3]`, with the repeated ones. sound: float32 `[samples, channels]` in [-1, 1] at
    `audio_rate`, (4T - 3) * 10 ms long. video_latents: `[1, C, F, H/32, W/32]` as the VAE decodes them. audio_latents:
    `[1, 8, T, 16]`, normalised. state: the state for the next segment. made_with: settings of the engine that the bytes
    may depend on, for the record. decoding: of all frames, those of the state too. warnings: about the request, one
    sentence each.
    """

    frames: NDArray[np.uint8]
    sound: NDArray[np.float32]
    audio_rate: int
    video_latents: Tensor
    audio_latents: Tensor
    state: LTX2ContinuationState
    made_with: Mapping[str, str] = field(default_factory=dict)
    decoding: Decoding = Decoding()
    warnings: tuple[str, ...] = ()
