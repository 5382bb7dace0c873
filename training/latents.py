"""Training data of the transformer: latents of random windows of the world, with their conditioning.

A window is one segment as the engine renders it: a first segment, or a continuation whose leading picture and sound are
clean. Its positions on the time axis come from `ltx2.timeline`, as in the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from ltx2.timeline import SegmentShape, SegmentTiming, first_timing, latent_frames, next_timing
from training import world
from training.audio import sound_clip
from training.clips import as_pictures
from training.model import TOKENS, Model

OVERLAPS = {9: 0.7, 1: 0.15, 17: 0.15}
"""Number of conditioning frames of a continuation, with its probability."""
FIRST = 0.35
"""The probability that a window is a first segment."""
_LONGEST = 40  # a window is at most this many segments into a film
_LEAD = 16  # audio latents encoded before a window, so that it is not affected by the start of the encoder's input


@dataclass(frozen=True, slots=True)
class Kind:
    """The kind of the windows of a batch. overlap: conditioning frames of a continuation, None for a first segment."""

    overlap: int | None

    def timing(self, segment: int) -> SegmentTiming:
        """The timing of segment `segment` in a film of such segments."""
        timing = first_timing(SegmentShape(world.FRAMES, Fraction(world.FPS), self.overlap or 9))
        for _ in range(segment if self.overlap else 0):
            timing = next_timing(timing)
        return timing


@dataclass(frozen=True, slots=True)
class Windows:
    """A batch of windows of one kind, with normalised latents.

    video: `[B, C, 4, 4, 6]`. audio: `[B, 8, T, 16]`. prefix: clean leading video latents `[B, C, k, 4, 6]`, decoded and
    encoded once more in half of the batch, as the frames of a state are. pinned `[B]`: number of leading clean audio
    latents. offset `[B]`: seconds. lots `[B, 8]`: the numbers that the noise determines. hidden `[B, 64, D * layers]`
    and mask `[B, 64]`: prompts.
    """

    kind: Kind
    video: Tensor
    audio: Tensor
    prefix: Tensor
    pinned: Tensor
    offset: Tensor
    lots: Tensor
    hidden: Tensor
    mask: Tensor


def draw_kind(rng: np.random.Generator) -> Kind:
    """A first segment or a continuation, with the probabilities in FIRST and OVERLAPS."""
    if rng.random() < FIRST:
        return Kind(None)
    return Kind(int(rng.choice(list(OVERLAPS), p=list(OVERLAPS.values()))))


@dataclass(frozen=True, slots=True)
class Scenes:
    """A batch of windows before encoding.

    frames: uint8 `[B, 25, H, W, 3]`. before: uint8 `[B // 2, 25, H, W, 3]`, the previous segments of the first half.
    mel: `[B, 2, T', 64]`, with `lead` more audio latents before the window.
    """

    kind: Kind
    prompts: list[str]
    frames: Tensor
    before: Tensor
    mel: Tensor
    lead: int
    pinned: Tensor
    offset: Tensor
    lots: Tensor


def draw_scenes(rng: np.random.Generator, count: int, kind: Kind | None = None) -> Scenes:
    """`count` windows of random worlds, all of one kind, which is random by default."""
    kind = kind or draw_kind(rng)
    worlds, lots = zip(*(world.draw(rng) for _ in range(count)), strict=True)
    timings = [kind.timing(int(rng.integers(1, _LONGEST))) for _ in range(count)]
    starts = [float(timing.first_frame - timing.skipped_frames) / world.FPS for timing in timings]
    back = (world.FRAMES - (kind.overlap or world.FRAMES)) / world.FPS
    lead = _LEAD if kind.overlap else 0
    # latent l covers mel frames 4l - 3 .. 4l of 10 ms; the first one covers only frame 0
    begins = [start - float(timing.offset) - 0.04 * lead for start, timing in zip(starts, timings, strict=True)]
    length = 4 * (timings[0].audio_latents + lead) - 3
    return Scenes(
        kind,
        [one.prompt for one in worlds],
        _frames(worlds, starts),
        _frames(worlds[: count // 2], [start - back for start in starts]),
        torch.from_numpy(np.stack([sound_clip(w, begin, length).mel for w, begin in zip(worlds, begins, strict=True)])),
        lead,
        torch.tensor([timing.pinned for timing in timings]),
        torch.tensor([float(timing.offset) for timing in timings]),
        torch.from_numpy(np.stack(lots)).float(),
    )


def _frames(worlds: Sequence[world.World], starts: Sequence[float]) -> Tensor:
    frames = [one.frames(start, world.FRAMES) for one, start in zip(worlds, starts, strict=False)]
    return torch.from_numpy(np.stack(frames))


class Prompts:
    """Encodes prompts with the frozen text encoder."""

    def __init__(self, model: Model, device: torch.device) -> None:
        self._tokenizer, self._encoder, self._device = model.tokenizer, model.text_encoder.to(device).eval(), device

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Hidden states `[B, 64, D * layers]` as the pipeline packs them, and the mask `[B, 64]`."""
        tokens = self._tokenizer(texts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
        ids, mask = tokens.input_ids.to(self._device), tokens.attention_mask.to(self._device)
        hidden = self._encoder(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        return torch.stack(hidden, -1).flatten(2, 3), mask


class Recorder:
    """Encodes scenes with the autoencoders and the text encoder of `model`, on `device`."""

    def __init__(self, model: Model, device: torch.device) -> None:
        self._vae, self._audio_vae = model.vae.to(device).eval(), model.audio_vae.to(device).eval()
        self._prompts, self._device = Prompts(model, device), device

    @torch.no_grad()
    def record(self, scenes: Scenes) -> Windows:
        """Encode scenes to windows."""
        video = self._encode(scenes.frames)
        return Windows(
            scenes.kind,
            video,
            self._encode_sound(scenes),
            self._prefix(scenes, video),
            scenes.pinned.to(self._device),
            scenes.offset.to(self._device),
            scenes.lots.to(self._device),
            *self._prompts(scenes.prompts),
        )

    def _encode(self, frames: Tensor) -> Tensor:
        pictures = as_pictures(frames.to(self._device))
        with torch.autocast(self._device.type, torch.bfloat16):
            latents = self._vae.encode(pictures).latent_dist.mode().float()
        normal: Tensor = (latents - _wide(self._vae.latents_mean)) / _wide(self._vae.latents_std)
        return normal

    def _prefix(self, scenes: Scenes, video: Tensor) -> Tensor:
        """The leading latents of `video`. In the first half of the batch, they are encoded from decoded frames."""
        overlap = scenes.kind.overlap
        if overlap is None:
            return video[:, :, :0]
        latents = self._encode(scenes.before) * _wide(self._vae.latents_std) + _wide(self._vae.latents_mean)
        with torch.autocast(self._device.type, torch.bfloat16):
            again = self._vae.decode(latents).sample.float()[:, :, -overlap:]
        frames = (127.5 * (again.clamp(-1, 1) + 1)).round().byte().movedim(1, -1)
        return torch.cat([self._encode(frames), video[len(frames) :, :, : latent_frames(overlap)]])

    def _encode_sound(self, scenes: Scenes) -> Tensor:
        """Audio latents of each window; those of a continuation are encoded with the sound before it."""
        latents = self._audio_vae.encode(scenes.mel.to(self._device)).latent_dist.mode().float()[:, :, scenes.lead :]
        normal: Tensor = (latents - self._audio_vae.latents_mean) / self._audio_vae.latents_std
        return normal


def _wide(channels: Tensor) -> Tensor:
    return channels.float()[None, :, None, None, None]
