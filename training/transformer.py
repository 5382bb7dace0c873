"""Training of the transformer and its connectors: denoising of segments as the engine does it.

Leading picture and sound of a continuation, and all else that is given, are clean, with noise level 0. The picture is
at its offset on the time axis of the sound, and most noise levels are those of the eight distilled steps.

The noise determines what a prompt does not: the means of its first channels encode the numbers that placed the shapes.
Over all segments the noise is still white, but each noise has one correct result, so the path from noise to picture is
almost straight and eight steps are enough.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.ltx2.utils import DISTILLED_SIGMA_VALUES
from torch import Tensor, nn

from ltx2.model.denoising.cross_attention import apply_cross_attention_rule
from training import clips, world
from training.latents import Kind, Recorder, Windows, draw_kind, draw_scenes
from training.loop import Stage
from training.model import Model

FIXED_SIGMAS = 0.85
"""The probability that a noise level is one of the eight; otherwise it is uniform in 0..1."""
REUSE = 32
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
    model: Model,
    *,
    steps: int,
    size: int,
    pool: int,
    processes: int,
    device: torch.device,
    rate: float = 1e-3,
    graphs: bool = False,
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

    return Stage("transformer", denoiser, step, batches, steps, rate, average=1000, graphs=graphs)


def mixed(recorded: Iterator[Windows], rng: np.random.Generator, size: int, pool: int) -> Iterator[Windows]:
    """Batches of `size` windows of one kind, mixed from the last `pool` recordings of it."""
    kept: dict[Kind, deque[Windows]] = {}
    due = 0  # windows to use before the next recording
    for new in recorded:
        kept.setdefault(new.kind, deque(maxlen=pool)).append(new)
        due += REUSE * len(new.video)
        while due >= size:
            due -= size
            kind = draw_kind(rng)
            yield _mixed(kept.get(kind, kept[new.kind]), rng, size)


def first_coords(transformer: Any, device: torch.device) -> Tensor:
    """Positions of the video tokens of a segment with offset 0: `[1, 3, 96, 2]`."""
    coords: Tensor = transformer.rope.prepare_video_coords(1, 4, 4, 6, device, fps=float(world.FPS))
    return coords


@dataclass(frozen=True, slots=True)
class Tokens:
    """A batch as the transformer gets it: the picture's tokens with those of appended stills, and the sound's.

    video `[B, N, C]`, audio `[B, T, 128]`: clean. video_mask `[B, N]`, audio_mask `[B, T]`: 0 where a token is given.
    coords: positions `[B, 3, N, 2]` of the video's tokens.
    """

    video: Tensor
    audio: Tensor
    video_mask: Tensor
    audio_mask: Tensor
    coords: Tensor


def tokens_of(windows: Windows, coords: Tensor) -> Tokens:
    """The tokens of `windows`. coords: from `first_coords`."""
    size, per_frame = len(windows.video), math.prod(windows.video.shape[3:])
    mask = windows.picture_mask.repeat_interleave(per_frame, 1)
    video, prefix = windows.video.flatten(2).mT, windows.prefix.flatten(2).mT
    count = prefix.shape[1]
    leading = torch.where(mask[:, :count, None] == 0, prefix, video[:, :count])
    places = windows.places.repeat_interleave(per_frame, 1) / world.FPS
    stills = coords[:, :, :per_frame].repeat(size, 1, windows.kind.stills, 1)
    stills[:, 0] = torch.stack([places, places + 1 / world.FPS], -1)
    positions = torch.cat([coords.expand(size, -1, -1, -1), stills], 2)
    positions[:, 0] += windows.offset[:, None, None]
    return Tokens(
        torch.cat([leading, video[:, count:], windows.stills.flatten(2).mT], 1),
        windows.audio.transpose(1, 2).flatten(2),
        torch.cat([mask, torch.zeros_like(places)], 1),
        windows.sound_mask,
        positions,
    )


def losses(denoiser: Denoiser, windows: Windows, coords: Tensor, *, sigma: Tensor) -> dict[str, Tensor]:
    """Mean squared errors of the velocities, noise minus clean, of one batch at noise levels `sigma` `[B]`.

    coords: from `first_coords`.
    """
    tokens = tokens_of(windows, coords)
    masks, prompts = (tokens.video_mask, tokens.audio_mask), (windows.hidden, windows.mask)
    video_noise, audio_noise = torch.randn_like(tokens.video), torch.randn_like(tokens.audio)
    if not windows.kind.overlap:
        video_noise = settled(video_noise, windows.lots, windows.tied, tokens.video_mask)
    noisy_video = _noised(tokens.video, video_noise, sigma, tokens.video_mask)
    noisy_audio = _noised(tokens.audio, audio_noise, sigma, tokens.audio_mask)
    got = predict(denoiser, noisy_video, noisy_audio, sigma, *masks, tokens.coords, *prompts)
    wanted = video_noise - tokens.video, audio_noise - tokens.audio
    picture, sound = (
        ((a.float() - b).square().mean(2) * m).sum() / m.sum().clamp(min=1)
        for a, b, m in zip(got, wanted, masks, strict=True)
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
    """Velocities `[B, N, C]` and `[B, T, 128]`, with the arguments that `LongtakePipeline` passes.

    The sigma of a stream that is given as a whole is 0, as the model's authors have it.
    """
    transformer, size, device = denoiser.transformer, len(sigma), video.device
    text, audio_text, _ = denoiser.connectors(hidden, mask, padding_side="left")
    velocities: tuple[Tensor, Tensor] = transformer(
        hidden_states=video,
        audio_hidden_states=audio,
        encoder_hidden_states=text,
        audio_encoder_hidden_states=audio_text,
        timestep=1000 * sigma[:, None] * video_mask,
        audio_timestep=1000 * sigma[:, None] * audio_mask,
        sigma=1000 * sigma * video_mask.amax(1),
        audio_sigma=1000 * sigma * audio_mask.amax(1),
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


def settled(noise: Tensor, lots: Tensor, tied: Tensor, mask: Tensor) -> Tensor:
    """`noise` `[B, N, C]` with the means of its first channels set by those `lots` `[B, L]`, 0..1, that are `tied`.

    mask: `[B, N]`, 1 for the tokens that are rendered, whose means are set. The mean of N standard normal numbers is
    normal with standard deviation 1 / sqrt(N), so uniform lots keep the noise white.
    """
    channels, rendered = lots.shape[1], mask[..., None]
    count = rendered.sum(1).clamp(min=1)
    means = torch.special.ndtri(lots.clamp(1e-4, 1 - 1e-4)) / count**0.5
    moved = noise.clone()
    missing = means - (noise[..., :channels] * rendered).sum(1) / count
    moved[..., :channels] += (missing * tied)[:, None] * rendered
    return moved


def _noised(clean: Tensor, noise: Tensor, sigma: Tensor, mask: Tensor) -> Tensor:
    """`clean` at noise level sigma where the mask is 1, with up to PREFIX_NOISE where it is 0."""
    slight = PREFIX_NOISE * torch.rand(len(clean), 1, 1, device=clean.device) * torch.randn_like(clean)
    level = (sigma[:, None] * mask)[..., None]
    return level * noise + (1 - level) * (clean + (1 - mask[..., None]) * slight)


def _mixed(recordings: Sequence[Windows], rng: np.random.Generator, size: int) -> Windows:
    """A batch of random windows from several recordings, so that no two batches are the same."""
    first = recordings[0]
    count = len(first.video)
    rows = torch.from_numpy(rng.integers(count, size=size)).to(first.video.device)
    picks = [(recordings[int(rng.integers(len(recordings)))], part) for part in rows.tensor_split(_PARTS)]

    def gathered(name: str) -> Tensor:
        return torch.cat([getattr(windows, name)[part] for windows, part in picks])

    names = (field.name for field in fields(Windows) if field.name != "kind")
    return Windows(first.kind, **{name: gathered(name) for name in names})
