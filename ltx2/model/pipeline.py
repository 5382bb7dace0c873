"""diffusers' condition pipeline with pinned sound, a pinned end, placed images and shifted video positions.

Stock `LTX2ConditionPipeline` pins only leading video frames, and appends images at every eighth frame. A segment also
pins audio latents and the end of the picture, has images at any frame, and shifts the picture to its place on the time
axis of the sound. All is done in one call:

- latents start as noise where they are rendered, and as the clean latents where they are pinned;
- each token gets its own noise level, 0 or sigma, and each video token its time plus the offset;
- each step keeps the pinned latents, see `MaskedScheduler`, or `AncestralScheduler` where that is the pipeline's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from numpy.typing import NDArray
from torch import Tensor, nn

from ltx2.model.ancestral import AncestralScheduler
from ltx2.model.text.prompts import PromptedPipeline


@dataclass(frozen=True, slots=True)
class Pins:
    """What one call conditions on in addition to its frames.

    audio: `[B, 8, T, 16]`, normalised; only latents that the mask keeps are read, and T sets the length of the sound.
    audio_mask: `[T]`, the clean-latent mask: 0 keeps a latent, 1 renoises it from scratch.
    video_offset: seconds by which all video tokens are shifted, at least 0.
    audio_start: `[B, 8, T, 16]`, normalised: latents that are renoised to the call's first sigma where the mask is 1.
    None is for a first sigma of 1, which leaves nothing of them.
    sound_is_given: the mask keeps all sound, so that its sigma is 0, as the model's authors have it.
    video_end: the last latents `[1, C, k, H/32, W/32]` of the picture, as the VAE decodes them.
    image_frames: frames of the segment at which the conditions that do not begin it stand, in their order.
    """

    audio: Tensor
    audio_mask: Tensor
    video_offset: float = 0.0
    audio_start: Tensor | None = None
    sound_is_given: bool = False
    video_end: Tensor | None = None
    image_frames: tuple[int, ...] = ()


class MaskedScheduler(FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]  # diffusers is untyped
    """Euler steps of a rectified flow that leave masked tokens unchanged.

    The prediction x0 = x - sigma v is blended with the clean c: x0' = m x0 + (1 - m) c. As a velocity,
    v' = (x - x0') / sigma = m v + (1 - m) (x - c) / sigma: exactly v where m is 1, exactly 0 where m is 0 and x is c.
    """

    mask: Tensor
    clean: Tensor

    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor, **kwargs: Any) -> Any:
        """One step; `model_output` and `sample` are packed audio tokens `[B, T, 128]`."""
        if self.step_index is None:
            self._init_step_index(timestep)
        towards_clean = (sample - self.clean) / self.sigmas[self.step_index]
        velocity = self.mask * model_output + (1 - self.mask) * towards_clean
        return super().step(velocity, timestep, sample, **kwargs)


class LongtakePipeline(PromptedPipeline):
    """`PromptedPipeline` whose calls take `pins`; without them, it changes nothing.

    For one call at a time. No state of pins remains after a call, even a failed one.
    """

    audio_scheduler: Any
    _pins: Pins | None = None

    def __call__(self, *args: Any, pins: Pins | None = None, **kwargs: Any) -> Any:
        """Stock arguments and results, with denormalised audio latents."""
        if pins is None:
            return super().__call__(*args, **kwargs)
        with self._conditioned(pins):
            return super().__call__(*args, audio_latents=pins.audio, **kwargs)

    @property
    def audio_shape(self) -> tuple[int, int]:
        """Channels and mel bins of the audio latents: (8, 16)."""
        return self.audio_latent_channels, self.audio_mel_bins // self.audio_vae_mel_compression_ratio

    def normalize_audio(self, latents: Tensor) -> Tensor:
        """Audio latents `[B, 8, T, 16]` of the VAE, normalised as the model denoises them."""
        packed = self._pack_audio_latents(latents)
        normal = self._normalize_audio_latents(packed, self.audio_vae.latents_mean, self.audio_vae.latents_std)
        unpacked: Tensor = self._unpack_audio_latents(normal, latents.shape[2], latents.shape[3])
        return unpacked

    def denormalize_audio(self, latents: Tensor) -> Tensor:
        """The inverse of `normalize_audio`."""
        packed = self._pack_audio_latents(latents)
        raw = self._denormalize_audio_latents(packed, self.audio_vae.latents_mean, self.audio_vae.latents_std)
        unpacked: Tensor = self._unpack_audio_latents(raw, latents.shape[2], latents.shape[3])
        return unpacked

    def preprocess_conditions(
        self, conditions: Any, height: int, width: int, num_frames: int, device: torch.device | None = None
    ) -> Any:
        """Stock results, but frames are copied to the device as bytes, not as floats."""
        frames = [np.asarray(one.frames) for one in conditions or ()]
        if [one.shape[1:] for one in frames] != [(height, width, 3)] or conditions[0].index or conditions[0].crf != 0:
            return super().preprocess_conditions(conditions, height, width, num_frames, device)
        count = self.trim_conditioning_sequence(0, len(frames[0]), num_frames)
        return [self._pixels(frames[0][:count], device)], [conditions[0].strength], [0], [count]

    def encode_frames(self, frames: NDArray[np.uint8]) -> Tensor:
        """The latents `[1, C, F, H/32, W/32]` of frames `[8k + 1, H, W, 3]`, as the VAE decodes them."""
        latents: Tensor = self.vae.encode(self._pixels(frames, self._execution_device)).latent_dist.mode()
        return latents

    def _pixels(self, frames: NDArray[np.uint8], device: torch.device | None) -> Tensor:
        levels = torch.from_numpy(frames).to(device).permute(3, 0, 1, 2)[None].contiguous()
        return (levels.float() / 127.5 - 1).to(self.vae.dtype)

    def apply_first_frame_conditioning(
        self, latents: Tensor, conditioning_mask: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Stock results, with the last tokens overwritten by the pinned end."""
        latents, pinned, clean = super().apply_first_frame_conditioning(latents, conditioning_mask, *args, **kwargs)
        if self._pins is not None and (end := self._pins.video_end) is not None:
            vae = self.vae
            end = end.to(latents)
            end = self._normalize_latents(end, vae.latents_mean, vae.latents_std, vae.config.scaling_factor)
            tokens = self._pack_latents(end, self.transformer_spatial_patch_size, self.transformer_temporal_patch_size)
            last = slice(latents.shape[1] - tokens.shape[1], None)
            latents[:, last], pinned[:, last], clean[:, last] = tokens, 1, tokens
        return latents, pinned, clean

    def prepare_latents(self, *args: Any, **kwargs: Any) -> Any:
        """Stock results with images at their exact frames. An `AncestralScheduler` needs the results, too."""
        prepared = super().prepare_latents(*args, **kwargs)
        _, pinned, clean, coords = prepared
        if self._pins is not None and (frames := self._pins.image_frames):
            begins = torch.tensor(frames, device=coords.device).repeat_interleave(coords.shape[2] // len(frames))
            coords[:, 0] = torch.stack([begins, begins + 1], dim=-1) / kwargs["frame_rate"]
        if isinstance(self.scheduler, AncestralScheduler):
            self.scheduler.mask, self.scheduler.clean = 1 - pinned, clean
        return prepared

    def prepare_audio_latents(self, *args: Any, **kwargs: Any) -> Tensor:
        """Stock noise mixed with the start latents where the mask is 1, clean latents where it is 0."""
        pins = self._pins
        noise: Tensor = super().prepare_audio_latents(*args, **(kwargs if pins is None else kwargs | {"latents": None}))
        if pins is None:
            return noise
        mask = pins.audio_mask.to(noise)[None, :, None]
        packed = self._pack_audio_latents(pins.audio).to(noise)
        clean = torch.where(mask < 1, packed, 0)
        self.audio_scheduler.mask, self.audio_scheduler.clean = mask, clean
        start = clean if pins.audio_start is None else self._pack_audio_latents(pins.audio_start).to(noise)
        scale: Tensor = kwargs["noise_scale"] * mask
        return scale * noise + (1 - scale) * torch.where(mask < 1, clean, start)

    @contextmanager
    def _conditioned(self, pins: Pins) -> Iterator[None]:
        def condition(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            mask = pins.audio_mask.to(kwargs["audio_timestep"])
            coords = kwargs["video_coords"].clone()
            coords[:, 0] += pins.video_offset
            changed = {"audio_timestep": kwargs["audio_timestep"][:, None] * mask, "video_coords": coords}
            if pins.sound_is_given:
                changed["audio_sigma"] = torch.zeros_like(kwargs["audio_sigma"])
            return args, kwargs | changed

        stock_scheduler = self.audio_scheduler
        # first of all hooks: that of the cross-attention rule reads the sigma
        hook = self.transformer.register_forward_pre_hook(condition, with_kwargs=True, prepend=True)
        if isinstance(self.scheduler, AncestralScheduler):
            self.audio_scheduler = self.scheduler.like_this()
        else:
            self.audio_scheduler = MaskedScheduler.from_config(self.scheduler.config)
        self._pins = pins
        try:
            yield
        finally:
            self._pins = None
            self.audio_scheduler = stock_scheduler
            hook.remove()
