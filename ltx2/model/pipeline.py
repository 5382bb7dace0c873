"""diffusers' condition pipeline with a clean audio prefix and shifted video positions.

Stock `LTX2ConditionPipeline` pins only leading video frames. A continuation also pins leading audio latents, and shifts
the picture to its place on the time axis of the sound. Both are done in one call:

- audio latents start as noise where the mask is 1, and as the clean latents where it is 0;
- each audio token gets its own noise level, sigma times its mask, and each video token its time plus the offset;
- each step keeps the masked latents, see `PrefixScheduler`, or `AncestralScheduler` where that is the pipeline's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from ltx2.model.ancestral import AncestralScheduler
from ltx2.model.prompts import PromptedPipeline


@dataclass(frozen=True, slots=True)
class AudioPrefix:
    """What one call conditions on in addition to its frames.

    latents: `[B, 8, T, 16]`, normalised; only latents that the mask keeps are read, and T sets the length of the sound.
    mask: `[T]`, the clean-latent mask: 0 keeps a latent, 1 renoises it from scratch.
    video_offset: seconds by which all video tokens are shifted, at least 0.
    start: `[B, 8, T, 16]`, normalised: latents that are renoised to the call's first sigma where the mask is 1. None is
    for a first sigma of 1, which leaves nothing of them.
    """

    latents: Tensor
    mask: Tensor
    video_offset: float = 0.0
    start: Tensor | None = None


class PrefixScheduler(FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]  # diffusers is untyped
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
    """`PromptedPipeline` whose calls take an `audio_prefix`; without one, it changes nothing.

    For one call at a time. No state of an audio prefix remains after a call, even a failed one.
    """

    audio_scheduler: Any
    _prefix: AudioPrefix | None = None

    def __call__(self, *args: Any, audio_prefix: AudioPrefix | None = None, **kwargs: Any) -> Any:
        """Stock arguments and results, with denormalised audio latents. audio_prefix: what to continue."""
        if audio_prefix is None:
            return super().__call__(*args, **kwargs)
        with self._conditioned(audio_prefix):
            return super().__call__(*args, audio_latents=audio_prefix.latents, **kwargs)

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
        levels = torch.from_numpy(frames[0][:count]).to(device).permute(3, 0, 1, 2)[None].contiguous()
        return [(levels.float() / 127.5 - 1).to(self.vae.dtype)], [conditions[0].strength], [0], [count]

    def prepare_latents(self, *args: Any, **kwargs: Any) -> Any:
        """Stock results, which an `AncestralScheduler` needs, too."""
        prepared = super().prepare_latents(*args, **kwargs)
        if isinstance(self.scheduler, AncestralScheduler):
            _, pinned, self.scheduler.clean, _ = prepared
            self.scheduler.mask = 1 - pinned
        return prepared

    def prepare_audio_latents(self, *args: Any, **kwargs: Any) -> Tensor:
        """Stock noise mixed with the start latents where the mask is 1, clean latents where it is 0."""
        prefix = self._prefix
        noise: Tensor = super().prepare_audio_latents(
            *args, **(kwargs if prefix is None else kwargs | {"latents": None})
        )
        if prefix is None:
            return noise
        mask = prefix.mask.to(noise)[None, :, None]
        packed = self._pack_audio_latents(prefix.latents).to(noise)
        clean = torch.where(mask < 1, packed, 0)
        self.audio_scheduler.mask, self.audio_scheduler.clean = mask, clean
        start = clean if prefix.start is None else self._pack_audio_latents(prefix.start).to(noise)
        scale: Tensor = kwargs["noise_scale"] * mask
        return scale * noise + (1 - scale) * torch.where(mask < 1, clean, start)

    @contextmanager
    def _conditioned(self, prefix: AudioPrefix) -> Iterator[None]:
        def condition(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            mask = prefix.mask.to(kwargs["audio_timestep"])
            coords = kwargs["video_coords"].clone()
            coords[:, 0] += prefix.video_offset
            return args, kwargs | {
                "audio_timestep": kwargs["audio_timestep"][:, None] * mask,
                "video_coords": coords,
            }

        stock_scheduler = self.audio_scheduler
        hook = self.transformer.register_forward_pre_hook(condition, with_kwargs=True)
        if isinstance(self.scheduler, AncestralScheduler):
            self.audio_scheduler = self.scheduler.like_this()
        else:
            self.audio_scheduler = PrefixScheduler.from_config(self.scheduler.config)
        self._prefix = prefix
        try:
            yield
        finally:
            self._prefix = None
            self.audio_scheduler = stock_scheduler
            hook.remove()
