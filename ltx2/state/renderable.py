"""Whether this build's engine can continue a state: the same check where a job is submitted and where it renders."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np

from ltx2.errors import UnsupportedStateError
from ltx2.state.continuation import LTX2ContinuationState

AUDIO_SPACE = "audio_latents_space"
NORMALISED, DENORMALISED = "normalised", "denormalised"
AUDIO_SHAPE = (8, 16)
"""Channels and mel of the audio latents of every supported model."""


def check_renderable(
    state: LTX2ContinuationState,
    *,
    overlap: int,
    size: tuple[int, int],
    audio_latents: int,
    audio_shape: tuple[int, int] = AUDIO_SHAPE,
    audio_rate: int | None = None,
) -> None:
    """Check the arrays of a state and how they are to be used. size: (height, width) in pixels.

    audio_latents: those of the next segment. audio_shape, audio_rate: the model's (C, mel) and sample rate, if known.

    Raises:
        UnsupportedStateError: names field and value.
    """
    if state.audio_sample_rate is not None and audio_rate is not None:
        _require(state, "audio_sample_rate", state.audio_sample_rate == audio_rate, f"this model's rate, {audio_rate}")
    _check_frames(state, overlap, (*size, 3))
    if state.audio_conditioning_num_frames:
        _check_audio(state, audio_latents, audio_shape)
    is_normalised(state)


def is_normalised(state: LTX2ContinuationState) -> bool:
    """Whether the audio latents are as the model denoises them; UnsupportedStateError for an unknown space."""
    space = state.metadata.get(AUDIO_SPACE, NORMALISED)
    if space not in (NORMALISED, DENORMALISED):
        _reject(f"metadata.{AUDIO_SPACE}", f"{space!r:.40}", f"only {NORMALISED} or {DENORMALISED}")
    return bool(space == NORMALISED)


def _check_frames(state: LTX2ContinuationState, overlap: int, shape: tuple[int, int, int]) -> None:
    if not state.video_frames:
        if state.video_frames_blob_id is not None:
            _reject("video_frames_blob_id", state.video_frames_blob_id, "only frames read from the blob")
        return
    _require(state, "video_conditioning_frame_idx", state.video_conditioning_frame_idx == 0, "only 0")
    _require(state, "video_conditioning_strength", state.video_conditioning_strength == 1.0, "only 1.0")
    if len(state.video_frames) != overlap:
        _reject("video_frames", f"{len(state.video_frames)} frames", f"only the overlap of {overlap}")
    for number, frame in enumerate(state.video_frames):
        if frame.dtype != np.uint8 or frame.shape != shape:
            _reject(f"video_frames[{number}]", f"{frame.dtype} {frame.shape}", f"only uint8 {shape}")


def _check_audio(state: LTX2ContinuationState, available: int, shape: tuple[int, int]) -> None:
    latents, kept = state.audio_latents, state.audio_conditioning_num_frames
    if latents is None:
        if state.audio_latents_blob_id is not None:
            _reject("audio_latents_blob_id", state.audio_latents_blob_id, "only latents read from the blob")
        _reject("audio_conditioning_num_frames", kept, "only 0 without audio_latents")
    _require(state, "audio_conditioning_strength", state.audio_conditioning_strength == 0.0, "only 0.0")
    channels, mel = shape
    if latents.ndim != 4 or (*latents.shape[:2], latents.shape[3]) != (1, channels, mel):
        _reject("audio_latents", list(latents.shape), f"only [1, {channels}, T, {mel}]")
    if not 0 < kept <= min(latents.shape[2], available):
        _reject("audio_conditioning_num_frames", kept, f"only 1..{min(latents.shape[2], available)}")
    if not latents[:, :, -kept:].float().isfinite().all():
        _reject("audio_latents", "NaN or infinity", "only finite numbers")


def _require(state: LTX2ContinuationState, field: str, is_valid: bool, supported: str) -> None:
    if not is_valid:
        _reject(field, getattr(state, field), supported)


def _reject(field: str, value: Any, supported: str) -> NoReturn:
    raise UnsupportedStateError(f"{field} is {value}; this engine supports {supported}")
