"""Input and output of an engine. Importing this loads neither torch nor a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ltx2.errors import RequestError
from ltx2.sampling import Decoder, Sampling
from ltx2.state.continuation import LTX2ContinuationState
from ltx2.state.renderable import AUDIO_SHAPE
from ltx2.timeline import TEMPORAL_COMPRESSION, SegmentTiming, latent_frames

if TYPE_CHECKING:
    from torch import Tensor

OnStep = Callable[[int, int], bool | None]
OnState = Callable[[LTX2ContinuationState, "Tensor", "Tensor"], None]
"""Receives a segment's new state, video latents and audio latents, the same as in its `SegmentOutput`."""

END_AUDIO_LATENTS = 10
"""Pinned at an end by default: sound changes over the 2.5 latents before it, and its decoder looks 7 latents on."""
MOST_IMAGES = 8
"""Placed in one segment, at most: each adds the tokens of one latent frame, and their number is a compiled shape."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """How latents became frames. noise_seed: of the noise that the decoder was given; None: it was given none."""

    decoder: Decoder = Decoder.CONVOLUTIONAL
    noise_seed: int | None = None


@dataclass(frozen=True, slots=True)
class PinnedEnd:
    """The end that a segment must lead into: that of a rendered segment with the same timing, which it replaces.

    video_latents: `[1, C, F, H/32, W/32]`, audio_latents: `[1, 8, T, 16]`, normalised: all latents of that segment, as
    in its `SegmentOutput`. decoding: of that segment. video_count, audio_count: how many latents are pinned at the end,
    at least 1 and at least 0.
    """

    video_latents: Tensor
    audio_latents: Tensor
    decoding: Decoding = Decoding()
    video_count: int = 1
    audio_count: int = END_AUDIO_LATENTS

    @property
    def frames(self) -> int:
        """How many frames at the end of the segment are pinned."""
        return TEMPORAL_COMPRESSION * self.video_count


@dataclass(frozen=True, slots=True)
class VideoAfter:
    """The beginning of a video that follows a segment, which must lead into it.

    pictures: uint8 `[v, H, W, 3]`, v = 8k + 1 and at least 9: the segment's last frames show them. All of their latents
    but the first are pinned: that one stands for a single frame. audio_latents: `[1, 8, a, 16]`, normalised: the last
    ones of the segment's sound, at least none.
    """

    pictures: NDArray[np.uint8]
    audio_latents: Tensor

    @property
    def video_count(self) -> int:
        """How many latents of the picture are pinned."""
        return latent_frames(len(self.pictures)) - 1

    @property
    def frames(self) -> int:
        """How many frames at the end of the segment are pinned."""
        return TEMPORAL_COMPRESSION * self.video_count

    @property
    def audio_count(self) -> int:
        """How many latents of the sound are pinned."""
        return int(self.audio_latents.shape[2])


@dataclass(frozen=True, slots=True)
class PlacedImage:
    """An image that the segment shows at one of its frames.

    frame: counted from the segment's first frame, repeated ones included. pixels: uint8 `[H, W, 3]`. strength: 1, or 0
    for an image that is left out.
    """

    frame: int
    pixels: NDArray[np.uint8]
    strength: float = 1.0


@dataclass(frozen=True, slots=True)
class SegmentRequest:
    """One segment to render. ValueError: an invalid size, image, end or sound.

    width, height: pixels, multiples of 32; of 64 with two stages. seed: 0 .. 2**63 - 1. image: uint8 `[H, W, 3]`, the
    first frame of a segment that is not a continuation. end: what it must lead into. images: what it shows at other
    frames, in the part that is free: behind the first frame or the repeated ones, and before a pinned end. sound:
    `[1, 8, T, 16]`, normalised: all of its sound, which is kept; nothing else of the sound is pinned then.
    """

    prompt: str
    seed: int
    width: int
    height: int
    timing: SegmentTiming
    sampling: Sampling = field(default_factory=Sampling)
    image: NDArray[np.uint8] | None = None
    end: PinnedEnd | VideoAfter | None = None
    images: tuple[PlacedImage, ...] = ()
    sound: Tensor | None = None

    def __post_init__(self) -> None:
        step = 32 * self.sampling.stages
        for name, pixels in (("width", self.width), ("height", self.height)):
            if pixels <= 0 or pixels % step:
                raise ValueError(f"{name} is {pixels}; it must be a positive multiple of {step}")
        if self.image is not None:
            if self.timing.continued:
                raise ValueError(f"segment {self.timing.index} is a continuation and cannot begin with an image")
            _check_pixels("image", self.image, (self.height, self.width, 3))
        if self.sound is not None:
            _check_latents("sound", self.sound, (1, AUDIO_SHAPE[0], self.timing.audio_latents, AUDIO_SHAPE[1]))
        if self.end is not None:
            self._check_end(self.end)
        self._check_images()

    @property
    def free_frames(self) -> range:
        """The frames at which an image can be placed."""
        return range(self.timing.skipped_frames or 1, self.timing.shape.frames - (self.end.frames if self.end else 0))

    def _check_end(self, end: PinnedEnd | VideoAfter) -> None:
        timing = self.timing
        if isinstance(end, VideoAfter):
            _check_pixels("end.pictures", end.pictures, (len(end.pictures), self.height, self.width, 3))
            sounds = end.audio_latents.shape[2] if end.audio_latents.ndim == 4 else "a"
        else:
            count, size = latent_frames(timing.shape.frames), (self.height // 32, self.width // 32)
            channels = end.video_latents.shape[1] if end.video_latents.ndim == 5 else "C"
            _check_latents("end.video_latents", end.video_latents, (1, channels, count, *size))
            sounds = timing.audio_latents
        _check_latents("end.audio_latents", end.audio_latents, (1, AUDIO_SHAPE[0], sounds, AUDIO_SHAPE[1]))
        picture, sound = free_latents(timing, image=self.image is not None)
        counts = [("end.video_count", end.video_count, 1, picture - 1)]
        if self.sound is None:
            counts.append(("end.audio_count", end.audio_count, 0, sound - 1))
        for name, pinned, least, most in counts:
            if most < least:
                raise RequestError(f"segment {timing.index} is too short for a pinned end: nothing is left to render")
            if not least <= pinned <= most:
                raise RequestError(f"{name} is {pinned}; segment {timing.index} can have {least}..{most}")

    def _check_images(self) -> None:
        free, seen = self.free_frames, set[int]()
        if len(self.images) > MOST_IMAGES:
            raise RequestError(f"images has {len(self.images)} images; a segment can have {MOST_IMAGES}")
        for number, placed in enumerate(self.images):
            name = f"images[{number}]"
            if placed.frame not in free:
                raise RequestError(
                    f"{name}.frame is {placed.frame}; segment {self.timing.index} is free to show images at "
                    + (f"{free[0]}..{free[-1]}" if free else "no frame")
                )
            if placed.frame in seen:
                raise RequestError(f"{name}.frame is {placed.frame}, as that of another image")
            seen.add(placed.frame)
            if placed.strength not in (0, 1):
                raise RequestError(f"{name}.strength is {placed.strength}; it must be 0 or 1")
            _check_pixels(name, placed.pixels, (self.height, self.width, 3))
        object.__setattr__(self, "images", tuple(placed for placed in self.images if placed.strength))


def free_latents(timing: SegmentTiming, *, image: bool = False) -> tuple[int, int]:
    """How many latents of picture and sound a segment renders; a pinned end must leave one of each.

    image: whether it begins with an image.
    """
    begun = latent_frames(timing.skipped_frames) if timing.continued else int(image)
    return latent_frames(timing.shape.frames) - begun, timing.audio_latents - timing.pinned


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


def _check_pixels(name: str, pixels: NDArray[np.uint8], shape: tuple[int, ...]) -> None:
    if pixels.dtype != np.uint8 or pixels.shape != shape:
        raise RequestError(f"{name} is {pixels.dtype} {pixels.shape}; it must be uint8 {shape}")


def _check_latents(name: str, latents: Tensor, shape: tuple[int | str, ...]) -> None:
    if tuple(latents.shape) != shape:
        raise RequestError(f"{name} has the shape {list(latents.shape)}; it must be [{', '.join(map(str, shape))}]")
    if not latents.is_floating_point() or not latents.isfinite().all():
        raise RequestError(f"{name} has values that are not finite numbers; it must have only such")
