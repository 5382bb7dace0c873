"""Conditioning of a segment on an incoming state, with checks that the engine can render it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltx2.errors import UnsupportedStateError
from ltx2.state.continuation import LTX2ContinuationState
from ltx2.timeline import SegmentTiming, exact

AUDIO_SPACE = "audio_latents_space"
NORMALISED, DENORMALISED = "normalised", "denormalised"


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
) -> Conditioning:
    """The conditioning of a continuation. size: (height, width) in pixels. audio_shape: the model's (C, mel).

    A state may lack frames or audio latents; then only the other conditions.

    Raises:
        UnsupportedStateError: this engine cannot render the state; the message names field and value.
    """
    offset = exact(state.video_position_offset_sec)
    _require(state, "video_position_offset_sec", offset == timing.offset, timing.offset)
    kept = state.audio_conditioning_num_frames
    _require(state, "audio_conditioning_num_frames", kept == timing.pinned, timing.pinned)
    return Conditioning(
        frames=_frames(state, timing.shape.overlap, (*size, 3)),
        audio=_audio(state, timing.audio_latents, audio_shape) if kept else None,
        audio_is_normalised=_is_normalised(state),
    )


def _frames(state: LTX2ContinuationState, overlap: int, shape: tuple[int, int, int]) -> NDArray[np.uint8] | None:
    if not state.video_frames:
        if state.video_frames_blob_id is not None:
            _reject("video_frames_blob_id", state.video_frames_blob_id, "only frames read from the blob")
        return None
    _require(state, "video_conditioning_frame_idx", state.video_conditioning_frame_idx == 0, 0)
    _require(state, "video_conditioning_strength", state.video_conditioning_strength == 1.0, 1.0)
    if len(state.video_frames) != overlap:
        _reject("video_frames", f"{len(state.video_frames)} frames", f"only the overlap of {overlap}")
    for number, frame in enumerate(state.video_frames):
        if frame.dtype != np.uint8 or frame.shape != shape:
            _reject(f"video_frames[{number}]", f"{frame.dtype} {frame.shape}", f"only uint8 {shape}")
    return np.stack(state.video_frames)


def _audio(state: LTX2ContinuationState, available: int, shape: tuple[int, int]) -> Tensor:
    latents, kept = state.audio_latents, state.audio_conditioning_num_frames
    if latents is None:
        if state.audio_latents_blob_id is not None:
            _reject("audio_latents_blob_id", state.audio_latents_blob_id, "only latents read from the blob")
        _reject("audio_conditioning_num_frames", kept, "only 0 without audio_latents")
    _require(state, "audio_conditioning_strength", state.audio_conditioning_strength == 0.0, 0.0)
    channels, mel = shape
    if latents.ndim != 4 or (*latents.shape[:2], latents.shape[3]) != (1, channels, mel):
        _reject("audio_latents", list(latents.shape), f"only [1, {channels}, T, {mel}]")
    if not 0 < kept <= min(latents.shape[2], available):
        _reject("audio_conditioning_num_frames", kept, f"only 1..{min(latents.shape[2], available)}")
    prefix: Tensor = latents[:, :, -kept:].to("cpu", torch.float32)
    if not prefix.isfinite().all():
        _reject("audio_latents", "NaN or infinity", "only finite numbers")
    return prefix


def _is_normalised(state: LTX2ContinuationState) -> bool:
    space = state.metadata.get(AUDIO_SPACE, NORMALISED)
    if space not in (NORMALISED, DENORMALISED):
        _reject(f"metadata.{AUDIO_SPACE}", repr(space), f"only {NORMALISED} or {DENORMALISED}")
    return bool(space == NORMALISED)


def _require(state: LTX2ContinuationState, field: str, is_valid: bool, expected: Any) -> None:
    if not is_valid:
        _reject(field, getattr(state, field), f"only {expected}")


def _reject(field: str, value: Any, supported: str) -> NoReturn:
    raise UnsupportedStateError(f"{field} is {value}; this engine supports {supported}")
