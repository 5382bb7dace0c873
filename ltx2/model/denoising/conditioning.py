"""Conditioning of a segment: on an incoming state, checked for what the engine can render, and on its request."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltx2.errors import RequestError, UnsupportedStateError
from ltx2.media.images import recompressed
from ltx2.request import PinnedEnd, PlacedImage, SegmentRequest, VideoAfter
from ltx2.state.continuation import LTX2ContinuationState
from ltx2.state.renderable import AUDIO_SPACE, NORMALISED, check_renderable, is_normalised
from ltx2.timeline import SegmentTiming, exact


@dataclass(frozen=True, slots=True)
class Conditioning:
    """What a segment is conditioned on.

    frames: the first ones, uint8 `[v, H, W, 3]`, or None. audio: the kept latents `[1, 8, a, 16]`, float32, or None.
    end, images, sound: as in `SegmentRequest`. end_frames: the frames of the end's segment, for a smaller first stage.
    """

    frames: NDArray[np.uint8] | None = None
    audio: Tensor | None = None
    audio_is_normalised: bool = True
    end: PinnedEnd | VideoAfter | None = None
    end_frames: NDArray[np.uint8] | None = None
    images: tuple[PlacedImage, ...] = ()
    sound: Tensor | None = None


def conditioning_of(
    request: SegmentRequest,
    state: LTX2ContinuationState | None,
    *,
    audio_shape: tuple[int, int],
    audio_rate: int,
    image_crf: int = 0,
    end_frames: NDArray[np.uint8] | None = None,
) -> Conditioning:
    """The conditioning of a segment. audio_shape, audio_rate: of the model. image_crf: images are compressed with it.

    state: of a continuation; it may lack frames or audio latents, then only the other conditions.

    Raises:
        UnsupportedStateError: this engine cannot render the state; the message names field and value.
    """
    given = Conditioning(
        end=request.end,
        end_frames=end_frames,
        images=tuple(replace(image, pixels=recompressed(image.pixels, image_crf)) for image in request.images),
        sound=request.sound,
    )
    if not request.timing.continued:
        return given if request.image is None else replace(given, frames=recompressed(request.image, image_crf)[None])
    if state is None:
        raise UnsupportedStateError(f"segment {request.timing.index} is a continuation, but has no state")
    check_continues(
        state, request.timing, size=(request.height, request.width), audio_shape=audio_shape, audio_rate=audio_rate
    )
    kept, latents = state.audio_conditioning_num_frames, state.audio_latents
    return replace(
        given,
        frames=np.stack(state.video_frames) if state.video_frames else None,
        audio=latents[:, :, -kept:].to("cpu", torch.float32) if kept and latents is not None else None,
        audio_is_normalised=is_normalised(state),
    )


def check_continues(
    state: LTX2ContinuationState,
    timing: SegmentTiming,
    *,
    size: tuple[int, int],
    audio_shape: tuple[int, int],
    audio_rate: int | None = None,
) -> None:
    """Check that a segment can continue a state. size: (height, width). audio_shape, audio_rate: of the model.

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


def check_channels(end: PinnedEnd, channels: int) -> None:
    """Check that a pinned end has the model's number of video channels. RequestError: it has not."""
    found = end.video_latents.shape[1]
    if found != channels:
        raise RequestError(f"end.video_latents has {found} channels; it must have those of this model, {channels}")


def placeholder_images(count: int, height: int, width: int) -> tuple[PlacedImage, ...]:
    """Black images, to compile the shapes of a segment with `count` images."""
    black = np.zeros((height, width, 3), np.uint8)
    return tuple(PlacedImage(frame, black) for frame in range(1, count + 1))


def state_after(
    timing: SegmentTiming,
    frames: NDArray[np.uint8],
    audio_latents: Tensor,
    audio_rate: int,
    metadata: dict[str, Any],
) -> LTX2ContinuationState:
    """The state after a segment with these frames `[F, H, W, 3]` and normalised latents; `metadata` is passed on."""
    return LTX2ContinuationState(
        segment_index=timing.index,
        video_frames=list(frames[-timing.tail_frames :].copy()),
        audio_latents=audio_latents,
        audio_sample_rate=audio_rate,
        audio_conditioning_num_frames=timing.next_pinned,
        audio_conditioning_strength=0.0,
        video_position_offset_sec=float(timing.next_offset),
        metadata=metadata | {AUDIO_SPACE: NORMALISED},
    )
