"""Denoising steps that renew the noise, for the first stage of the distilled LTX-2.5.

The model's authors render it with ancestral Euler steps of a rectified flow, eta 1, for picture and sound (Lightricks'
LTX-2, since 1.2.0). The second stage and all other models have plain Euler steps.
"""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

SEED_OFFSET = 10_000
"""The generator of the steps is seeded with the segment's seed plus this, as the model's authors do."""


class AncestralScheduler(FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]  # diffusers is untyped
    """Ancestral Euler steps that leave masked tokens unchanged.

    A step from sigma s to t takes the sample x to a (d/s) x + a (1 - d/s) x0 + sqrt(t^2 - a^2 d^2) noise, where
    d = t^2 / s is the level to which it denoises and a = (1 - t) / (1 - d). The last step, to 0, ends in x0.
    Then the clean c is blended in: m x + (1 - m) c.

    generator: on the CPU, the same for picture and sound: in each step, the picture draws first.
    mask: 0 keeps a token, 1 renders it. clean: packed latents. Both broadcast to the sample.
    """

    generator: torch.Generator
    mask: Tensor
    clean: Tensor

    @classmethod
    def seeded(cls, config: Any, seed: int) -> Self:
        """A scheduler that uses sigmas unchanged, for a segment with this seed."""
        scheduler: Self = cls.from_config(config, use_dynamic_shifting=False, shift_terminal=None)
        scheduler.generator = torch.Generator("cpu").manual_seed(seed + SEED_OFFSET)
        return scheduler

    def like_this(self) -> Self:
        """Another scheduler with the same config and generator."""
        scheduler: Self = type(self).from_config(self.config)
        scheduler.generator = self.generator
        return scheduler

    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor, **kwargs: Any) -> tuple[Tensor]:
        """One step; `model_output` is the velocity of the packed `sample`, float32 `[B, T, C]`."""
        if self.step_index is None:
            self._init_step_index(timestep)
        sigma, target = (float(self.sigmas[self.step_index + after]) for after in (0, 1))
        self._step_index += 1
        x0 = sample - sigma * model_output
        if target == 0:
            following = x0
        else:
            down = target * target / sigma
            scale = (1 - target) / (1 - down)
            noise = torch.randn(sample.shape, generator=self.generator, dtype=sample.dtype).to(sample.device)
            keep = scale * down / sigma
            following = keep * sample + (scale - keep) * x0 + math.sqrt(target**2 - (scale * down) ** 2) * noise
        return (self.mask * following + (1 - self.mask) * self.clean,)
