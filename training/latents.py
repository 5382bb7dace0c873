"""What the transformer learns from: windows of the world as the autoencoders give them, with what conditions them.

A window is one segment as the engine renders it: a first segment, or a continuation whose leading picture and sound are
clean. Its places on the time axis come from `ltx2.timeline`, as the engine's do.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ltx2.timeline import SegmentShape, SegmentTiming, first_timing, latent_frames, next_timing
from training import world
from training.audio import listen
from training.clips import as_pictures

FRAMES = 25
OVERLAPS = {9: 0.7, 1: 0.15, 17: 0.15}
"""Conditioning frames, and how often continuations have so many."""
FIRST = 0.35
"""How often a window is a first segment."""
_LONGEST = 40  # segments into a film
_LEAD = 16  # audio latents before a window, from which the encoder's own beginning has faded


@dataclass(frozen=True, slots=True)
class Kind:
    """What windows of one batch have in common: conditioning frames of a continuation, None for a first segment."""

    overlap: int | None

    def timing(self, segment: int) -> SegmentTiming:
        """The place of segment `segment` of a film of such segments."""
        timing = first_timing(SegmentShape(FRAMES, Fraction(world.FPS), self.overlap or 9))
        for _ in range(segment if self.overlap else 0):
            timing = next_timing(timing)
        return timing


@dataclass(frozen=True, slots=True)
class Windows:
    """A batch of windows of one kind, normalised as the transformer sees them.

    video: `[B, C, 4, 4, 6]`. audio: `[B, 8, T, 16]`. prefix: clean leading video latents `[B, C, k, 4, 6]`, once more
    through the autoencoder in half of the batch, as a state's frames went. pinned `[B]`: leading clean audio latents.
    offset `[B]`: seconds. lots `[B, 8]`: what the noise settles.
    """

    kind: Kind
    prompts: list[str]
    video: Tensor
    audio: Tensor
    prefix: Tensor
    pinned: Tensor
    offset: Tensor
    lots: Tensor


def draw_kind(rng: np.random.Generator) -> Kind:
    """A first segment or a continuation, as often as FIRST and OVERLAPS say."""
    if rng.random() < FIRST:
        return Kind(None)
    return Kind(int(rng.choice(list(OVERLAPS), p=list(OVERLAPS.values()))))


class Recorder:
    """Windows of random worlds, recorded by `vae` and `audio_vae` on their device."""

    def __init__(self, vae: Any, audio_vae: Any) -> None:
        self._vae, self._audio_vae = vae, audio_vae
        self._device = next(vae.parameters()).device

    @torch.no_grad()
    def record(self, rng: np.random.Generator, kind: Kind, count: int) -> Windows:
        """`count` windows of one kind."""
        scenes, lots = zip(*(world.draw(rng) for _ in range(count)), strict=True)
        timings = [kind.timing(int(rng.integers(1, _LONGEST))) for _ in range(count)]
        starts = [float(timing.first_frame - timing.skipped_frames) / world.FPS for timing in timings]
        frames = np.stack([scene.frames(start, FRAMES) for scene, start in zip(scenes, starts, strict=True)])
        video = self._encode(frames)
        return Windows(
            kind,
            [scene.prompt for scene in scenes],
            video,
            self._listen(scenes, timings, starts),
            self._prefix(scenes, starts, kind, video),
            torch.tensor([timing.pinned for timing in timings]),
            torch.tensor([float(timing.offset) for timing in timings]),
            torch.from_numpy(np.stack(lots)).float(),
        )

    def _encode(self, frames: np.ndarray[Any, Any]) -> Tensor:
        pictures = as_pictures(torch.from_numpy(frames).to(self._device))
        with torch.autocast(self._device.type, torch.bfloat16):
            latents = self._vae.encode(pictures).latent_dist.mode().float()
        normal: Tensor = (latents - _wide(self._vae.latents_mean)) / _wide(self._vae.latents_std)
        return normal

    def _prefix(self, scenes: Any, starts: list[float], kind: Kind, video: Tensor) -> Tensor:
        """The leading latents of `video`; of the first half of the batch, from frames that were decoded before."""
        if kind.overlap is None:
            return video[:, :, :0]
        half = len(scenes) // 2
        before = [start - (FRAMES - kind.overlap) / world.FPS for start in starts]
        seen = [scene.frames(start, FRAMES) for scene, start in zip(scenes[:half], before[:half], strict=True)]
        latents = self._encode(np.stack(seen)) * _wide(self._vae.latents_std) + _wide(self._vae.latents_mean)
        with torch.autocast(self._device.type, torch.bfloat16):
            again = self._vae.decode(latents).sample.float()[:, :, -kind.overlap :]
        frames = (127.5 * (again.clamp(-1, 1) + 1)).round().byte().movedim(1, -1).cpu().numpy()
        return torch.cat([self._encode(frames), video[half:, :, : latent_frames(kind.overlap)]])

    def _listen(self, scenes: Any, timings: list[SegmentTiming], starts: list[float]) -> Tensor:
        """Audio latents of each window; those of a continuation as they are in the middle of a sound."""
        lead = 0 if not timings[0].continued else _LEAD
        count = 4 * (timings[0].audio_latents + lead) - 3
        mels = []
        for scene, timing, start in zip(scenes, timings, starts, strict=True):
            # latent l is mel frames 4l - 3 .. 4l of 10 ms; the first one is frame 0 alone
            begin = start - float(timing.offset) - 0.04 * lead
            mels.append(listen(scene, begin, count).mel)
        heard = torch.from_numpy(np.stack(mels)).to(self._device)
        latents = self._audio_vae.encode(heard).latent_dist.mode().float()[:, :, lead:]
        normal: Tensor = (latents - self._audio_vae.latents_mean) / self._audio_vae.latents_std
        return normal


def _wide(channels: Tensor) -> Tensor:
    return channels.float()[None, :, None, None, None]
