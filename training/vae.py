"""Training of the video autoencoder."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training import world
from training.clips import as_pictures, stream
from training.loop import Stage
from training.reconstruction import reconstruction

NEAR = (9, 64, 64)
"""Frames, height and width of a crop near a shape, because most of a whole picture is background."""
WHOLE = (world.FRAMES, world.HEIGHT, world.WIDTH)
"""Frames, height and width of a whole segment, as the engine decodes it, with all positions and walls."""


def draw_clips(rng: np.random.Generator, size: int) -> Tensor:
    """Clips of random worlds, uint8 `[B, T, H, W, 3]`: `size` crops, or whole segments with as many pixels in all."""
    crop = NEAR if rng.random() < 0.5 else WHOLE
    count = max(1, size * math.prod(NEAR) // math.prod(crop))
    return torch.from_numpy(np.stack([_clip(rng, crop) for _ in range(count)]))


def _clip(rng: np.random.Generator, crop: tuple[int, int, int]) -> NDArray[np.uint8]:
    """A crop near a random shape of a random world, from a random moment on."""
    scene, _ = world.draw(rng)
    start, (frames, height, width) = rng.uniform(0, 30), crop
    shape = scene.shapes[rng.integers(len(scene.shapes))]
    x, y = (centre[0] for centre in shape.centre(np.array([start + frames / 2 / world.FPS])))
    left = int(np.clip(x - width * rng.uniform(0.1, 0.9), 0, world.WIDTH - width))
    top = int(np.clip(y - height * rng.uniform(0.1, 0.9), 0, world.HEIGHT - height))
    return scene.frames(start, frames)[:, top : top + height, left : left + width]


def stage(vae: Any, *, steps: int, size: int, processes: int) -> Stage:
    """Reconstruction of pixels in -1..1."""
    device = next(vae.parameters()).device

    def step(frames: Tensor) -> dict[str, Tensor]:
        return reconstruction(vae, as_pictures(frames.to(device)))

    clips = partial(draw_clips, size=size)
    return Stage("vae", vae, step, lambda seed: stream(clips, seed, processes=processes), steps, 4e-4)


@torch.no_grad()
def set_statistics(vae: Any, *, clips: int, seed: int = 1) -> None:
    """Measure and set mean and standard deviation of each latent channel, with which latents are normalised."""
    rng, device = np.random.default_rng(seed), next(vae.parameters()).device
    found = []
    for _ in range(clips):
        frames = world.draw(rng)[0].frames(rng.uniform(0, 30), world.FRAMES)
        pictures = as_pictures(torch.from_numpy(frames)[None].to(device))
        found.append(vae.encode(pictures).latent_dist.mode().float().flatten(2).squeeze(0))
    latents = torch.cat(found, 1)
    vae.latents_mean.copy_(latents.mean(1))
    vae.latents_std.copy_(latents.std(1))
