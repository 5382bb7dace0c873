"""Training of the transformer and its connectors: denoising of segments as the engine does it.

Leading picture and sound of a continuation are clean, with noise level 0. The picture is at its offset on the time axis
of the sound, and most noise levels are those of the eight distilled steps.

The noise determines what a prompt does not: the means of its first channels encode the numbers that placed the shapes.
Over all segments the noise is still white, but each noise has one correct result, so the path from noise to picture is
almost straight and eight steps are enough.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.ltx2.utils import DISTILLED_SIGMA_VALUES
from torch import Tensor, nn

from ltx2.model.cross_attention import apply_cross_attention_rule
from training import clips, world
from training.latents import Kind, Recorder, Windows, draw_kind, draw_scenes
from training.loop import Stage
from training.model import Model

FIXED_SIGMAS = 0.85
"""The probability that a noise level is one of the eight; otherwise it is uniform in 0..1."""
REUSE = 48
"""How many times each window is used on average, at different noise levels, because encoding takes longer."""
_RECORDED = 32  # windows that are encoded at once, at most
_PARTS = 16  # recordings that are mixed in a batch
PREFIX_NOISE = 0.05
"""The largest noise added to clean latents, because in a film they come from a model and are not exact."""


class Denoiser(nn.Module):
    """The trained modules: connectors and transformer."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.connectors, self.transformer = model.connectors, model.transformer
        apply_cross_attention_rule(self.transformer)


def stage(
    model: Model, *, steps: int, size: int, pool: int, processes: int, device: torch.device, graphs: bool
) -> Stage:
    """Velocities of noisy picture and sound tokens. Batches are mixed from the last `pool` recordings of each kind."""
    denoiser, recorder = Denoiser(model).to(device), Recorder(model, device)
    schedule = torch.tensor(DISTILLED_SIGMA_VALUES, device=device)
    coords = first_coords(model.transformer, device)

    def step(windows: Windows) -> dict[str, Tensor]:
        return losses(denoiser, windows, coords, sigma=noise_levels(size, schedule))

    def batches(seed: int) -> Iterator[Windows]:
        scenes = clips.stream(partial(draw_scenes, count=min(size, _RECORDED)), seed, processes=processes)
        return mixed(map(recorder.record, scenes), np.random.default_rng([2, seed]), size, pool)

    return Stage("transformer", denoiser, step, batches, steps, 1e-3, average=1000, graphs=graphs)


def mixed(recorded: Iterator[Windows], rng: np.random.Generator, size: int, pool: int) -> Iterator[Windows]:
    """Batches of `size` windows of one kind, mixed from the last `pool` recordings of it."""
    kept: dict[Kind, deque[Windows]] = {}
    due = 0  # windows to use before the next recording
    for new in recorded:
        kept.setdefault(new.kind, deque(maxlen=pool)).append(new)
        due += REUSE * len(new.pinned)
        while due >= size:
            due -= size
            kind = draw_kind(rng)
            yield _mixed(kept.get(kind, kept[new.kind]), rng, size)


def first_coords(transformer: Any, device: torch.device) -> Tensor:
    """Positions of the video tokens of a segment with offset 0: `[1, 3, 96, 2]`."""
    coords: Tensor = transformer.rope.prepare_video_coords(1, 4, 4, 6, device, fps=float(world.FPS))
    return coords


def losses(denoiser: Denoiser, windows: Windows, coords: Tensor, *, sigma: Tensor) -> dict[str, Tensor]:
    """Mean squared errors of the velocities, noise minus clean, of one batch at noise levels `sigma` `[B]`.

    coords: from `first_coords`.
    """
    size, device = len(windows.video), windows.video.device
    video, audio = windows.video.flatten(2).mT, windows.audio.transpose(1, 2).flatten(2)
    clean = windows.prefix.flatten(2).mT
    video_mask = (torch.arange(video.shape[1], device=device) >= clean.shape[1]).float().expand(size, -1)
    audio_mask = (torch.arange(audio.shape[1], device=device) >= windows.pinned[:, None]).float()
    video_noise, audio_noise = torch.randn_like(video), torch.randn_like(audio)
    if not windows.kind.overlap:
        video_noise = settled(video_noise, windows.lots)
    kept = torch.cat([clean, video[:, clean.shape[1] :]], 1)
    noisy_video = _noised(kept, video_noise, sigma, video_mask)
    noisy_audio = _noised(audio, audio_noise, sigma, audio_mask)
    masks, prompts = (video_mask, audio_mask), (windows.hidden, windows.mask)
    coords = coords.repeat(size, 1, 1, 1)
    coords[:, 0] += windows.offset[:, None, None]
    got = predict(denoiser, noisy_video, noisy_audio, sigma, *masks, coords, *prompts)
    wanted = video_noise - video, audio_noise - audio
    picture, sound = (
        ((a.float() - b).square().mean(2) * m).sum() / m.sum() for a, b, m in zip(got, wanted, masks, strict=True)
    )
    return {"picture": picture, "sound": sound}


def predict(
    denoiser: Denoiser,
    video: Tensor,
    audio: Tensor,
    sigma: Tensor,
    video_mask: Tensor,
    audio_mask: Tensor,
    coords: Tensor,
    hidden: Tensor,
    mask: Tensor,
) -> tuple[Tensor, Tensor]:
    """Velocities `[B, 96, C]` and `[B, T, 128]`, with the arguments that `LongtakePipeline` passes."""
    transformer, size, device = denoiser.transformer, len(sigma), video.device
    text, audio_text, _ = denoiser.connectors(hidden, mask, padding_side="left")
    velocities: tuple[Tensor, Tensor] = transformer(
        hidden_states=video,
        audio_hidden_states=audio,
        encoder_hidden_states=text,
        audio_encoder_hidden_states=audio_text,
        timestep=1000 * sigma[:, None] * video_mask,
        audio_timestep=1000 * sigma[:, None] * audio_mask,
        sigma=1000 * sigma,
        audio_sigma=1000 * sigma,
        video_coords=coords,
        audio_coords=transformer.audio_rope.prepare_audio_coords(size, audio.shape[1], device),
        return_dict=False,
    )
    return velocities


def noise_levels(size: int, schedule: Tensor) -> Tensor:
    """Noise levels `[size]` in 0..1, most of them from `schedule` `[S]`."""
    device = schedule.device
    fixed = schedule[torch.randint(len(schedule), (size,), device=device)]
    return torch.where(torch.rand(size, device=device) < FIXED_SIGMAS, fixed, torch.rand(size, device=device))


def settled(noise: Tensor, lots: Tensor) -> Tensor:
    """`noise` `[B, N, C]` with the means of its first channels set by `lots` `[B, L]`, 0..1.

    The mean of N standard normal numbers is normal with standard deviation 1 / sqrt(N), so uniform lots keep the noise
    white.
    """
    count, channels = lots.shape[1], noise.shape[1]
    means = torch.special.ndtri(lots.clamp(1e-4, 1 - 1e-4)) / channels**0.5
    moved = noise.clone()
    moved[..., :count] += (means - noise[..., :count].mean(1))[:, None]
    return moved


def _noised(clean: Tensor, noise: Tensor, sigma: Tensor, mask: Tensor) -> Tensor:
    """`clean` at noise level sigma where the mask is 1, with up to PREFIX_NOISE where it is 0."""
    slight = PREFIX_NOISE * torch.rand(len(clean), 1, 1, device=clean.device) * torch.randn_like(clean)
    level = (sigma[:, None] * mask)[..., None]
    return level * noise + (1 - level) * (clean + (1 - mask[..., None]) * slight)


def _mixed(recordings: Sequence[Windows], rng: np.random.Generator, size: int) -> Windows:
    """A batch of random windows from several recordings, so that no two batches are the same."""
    first = recordings[0]
    count = len(first.pinned)
    rows = torch.from_numpy(rng.integers(count, size=size)).to(first.video.device)
    picks = [(recordings[int(rng.integers(len(recordings)))], part) for part in rows.tensor_split(_PARTS)]

    def gathered(name: str) -> Tensor:
        return torch.cat([getattr(windows, name)[part] for windows, part in picks])

    names = (field.name for field in fields(Windows) if field.name != "kind")
    return Windows(first.kind, **{name: gathered(name) for name in names})
