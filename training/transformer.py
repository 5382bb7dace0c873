"""The transformer and its connectors: they learn to denoise segments the way the engine has them denoised.

Leading picture and sound of a continuation are clean and told so, the picture sits at its offset on the axis of the
sound, and most noise levels are those of the eight distilled steps.

What a prompt leaves open is settled by the noise: the means of its first channels are tied to the numbers that placed
the shapes. The noise of all segments together is still white, but each has one right answer, so the way from noise to
picture is nearly straight and eight steps suffice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from diffusers.pipelines.ltx2.utils import DISTILLED_SIGMA_VALUES
from torch import Tensor, nn

from training import clips, world
from training.latents import Kind, Recorder, Windows, draw_kind, draw_scenes
from training.loop import Stage
from training.model import TOKENS, Model

FIXED_SIGMAS = 0.85
"""How often a noise level is one of the eight; else it is anything in 0..1."""
REUSE = 4
"""How many times each window is learned from, on average."""
PREFIX_NOISE = 0.05
"""Up to so much noise is added to clean latents, which in a film are a model's own and never quite right."""


class Denoiser(nn.Module):
    """What learns: connectors and transformer."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.connectors, self.transformer = model.connectors, model.transformer


class Prompts:
    """The frozen text encoder's view of prompts."""

    def __init__(self, model: Model, device: torch.device) -> None:
        self._tokenizer, self._encoder, self._device = model.tokenizer, model.text_encoder.to(device).eval(), device

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Hidden states `[B, 64, D * layers]` as the pipeline packs them, and the mask `[B, 64]`."""
        told = self._tokenizer(texts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
        ids, mask = told.input_ids.to(self._device), told.attention_mask.to(self._device)
        hidden = self._encoder(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        return torch.stack(hidden, -1).flatten(2, 3), mask


def stage(model: Model, *, steps: int, size: int, pool: int, processes: int, device: torch.device) -> Stage:
    """Velocities of picture and sound, where they are not clean, of batches mixed from the last `pool` of each kind."""
    denoiser, prompts = Denoiser(model).to(device), Prompts(model, device)
    recorder = Recorder(model.vae.to(device).eval(), model.audio_vae.to(device).eval())

    def step(windows: Windows) -> dict[str, Tensor]:
        sigma = noise_levels(len(windows.prompts)).to(device)
        return losses(denoiser, windows, *prompts(windows.prompts), sigma=sigma)

    def batches(seed: int) -> Iterator[Windows]:
        scenes = clips.made(partial(draw_scenes, count=size), seed, processes=processes)
        return mixed(map(recorder.record, scenes), np.random.default_rng([2, seed]), size, pool)

    return Stage("transformer", denoiser, step, batches, steps, 1e-3, average=1000)


def mixed(recorded: Iterator[Windows], rng: np.random.Generator, size: int, pool: int) -> Iterator[Windows]:
    """Batches of windows of one kind, mixed from the last `pool` batches that were recorded of it.

    Recording takes longer than learning: one batch is recorded for REUSE that are given.
    """
    kept: dict[Kind, deque[Windows]] = {}
    while True:
        new = next(recorded)
        kept.setdefault(new.kind, deque(maxlen=pool)).append(new)
        for _ in range(REUSE):
            kind = draw_kind(rng)
            if kind in kept:
                yield _mixed(kept[kind], rng, size)


def losses(denoiser: Denoiser, windows: Windows, hidden: Tensor, mask: Tensor, *, sigma: Tensor) -> dict[str, Tensor]:
    """Mean squared errors of the velocities, noise minus clean, of one batch at noise levels `sigma` `[B]`."""
    size, device = len(windows.prompts), windows.video.device
    video, audio = windows.video.flatten(2).mT, windows.audio.transpose(1, 2).flatten(2)
    clean = windows.prefix.flatten(2).mT
    video_mask = (torch.arange(video.shape[1], device=device) >= clean.shape[1]).float().expand(size, -1)
    audio_mask = (torch.arange(audio.shape[1], device=device) >= windows.pinned.to(device)[:, None]).float()
    video_noise, audio_noise = torch.randn_like(video), torch.randn_like(audio)
    if not windows.kind.overlap:
        video_noise = settled(video_noise, windows.lots.to(device))
    kept = torch.cat([clean, video[:, clean.shape[1] :]], 1)
    noisy_video = _noised(kept, video_noise, sigma, video_mask)
    noisy_audio = _noised(audio, audio_noise, sigma, audio_mask)
    got = predict(denoiser, noisy_video, noisy_audio, sigma, video_mask, audio_mask, windows.offset, hidden, mask)
    wanted = video_noise - video, audio_noise - audio
    picture, sound = (
        ((a.float() - b).square().mean(2) * m).sum() / m.sum()
        for a, b, m in zip(got, wanted, (video_mask, audio_mask), strict=True)
    )
    return {"picture": picture, "sound": sound}


def predict(
    denoiser: Denoiser,
    video: Tensor,
    audio: Tensor,
    sigma: Tensor,
    video_mask: Tensor,
    audio_mask: Tensor,
    offset: Tensor,
    hidden: Tensor,
    mask: Tensor,
) -> tuple[Tensor, Tensor]:
    """Velocities `[B, 96, C]` and `[B, T, 128]`, called for as `LongtakePipeline` calls the transformer."""
    transformer, size, device = denoiser.transformer, len(sigma), video.device
    text, audio_text, _ = denoiser.connectors(hidden, mask, padding_side="left")
    coords = transformer.rope.prepare_video_coords(size, 4, 4, 6, device, fps=float(world.FPS))
    coords[:, 0] += offset.to(device)[:, None, None]
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
        use_cross_timestep=True,
        return_dict=False,
    )
    return velocities


def noise_levels(size: int) -> Tensor:
    """Noise levels `[size]` in 0..1, mostly of the distilled schedule."""
    fixed = torch.tensor(DISTILLED_SIGMA_VALUES)[torch.randint(len(DISTILLED_SIGMA_VALUES), (size,))]
    return torch.where(torch.rand(size) < FIXED_SIGMAS, fixed, torch.rand(size))


def settled(noise: Tensor, lots: Tensor) -> Tensor:
    """`noise` `[B, N, C]` with the means of its first channels where `lots` `[B, L]`, 0..1, have them.

    The mean of N normal numbers is normal with a spread of 1 / sqrt(N), so uniform lots leave the noise white.
    """
    count, channels = lots.shape[1], noise.shape[1]
    means = torch.special.ndtri(lots.clamp(1e-4, 1 - 1e-4)) / channels**0.5
    moved = noise.clone()
    moved[..., :count] += (means - noise[..., :count].mean(1))[:, None]
    return moved


def _noised(clean: Tensor, noise: Tensor, sigma: Tensor, mask: Tensor) -> Tensor:
    """`clean` at noise level sigma where the mask is 1, and hardly noisy where it is 0."""
    slight = PREFIX_NOISE * torch.rand(len(clean), 1, 1, device=clean.device) * torch.randn_like(clean)
    level = (sigma[:, None] * mask)[..., None]
    return level * noise + (1 - level) * (clean + (1 - mask[..., None]) * slight)


def _mixed(batches: Sequence[Windows], rng: np.random.Generator, size: int) -> Windows:
    """One batch of windows of several, so that no two batches hold the same."""
    picks = [(batches[int(rng.integers(len(batches)))], int(rng.integers(size))) for _ in range(size)]

    def stacked(name: str) -> Tensor:
        return torch.stack([getattr(windows, name)[index] for windows, index in picks])

    return Windows(
        picks[0][0].kind,
        [windows.prompts[index] for windows, index in picks],
        *map(stacked, ("video", "audio", "prefix", "pinned", "offset", "lots")),
    )
