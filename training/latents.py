"""Training data of the transformer: latents of random windows of the world, with their conditioning.

A window is one segment as the engine renders it: a first segment, or a continuation whose leading picture and sound are
clean. Its positions on the time axis come from `ltx2.timeline`, as in the engine. More of it may be given, see
`training.patterns`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltx2.timeline import SegmentShape, SegmentTiming, first_timing, latent_frames, next_timing
from training import world
from training.audio import sound_clip
from training.bounces import decided
from training.clips import as_pictures
from training.model import TOKENS, Model
from training.patterns import IMAGE, Part, Pattern, draw_parts, draw_pattern

OVERLAPS = {9: 0.7, 1: 0.15, 17: 0.15}
"""Number of conditioning frames of a continuation, with its probability."""
FIRST = 0.6
"""The probability that a window is a first segment."""
STILLS = {None: 0.75, 9: 0.15}
"""The probability that a window of this many conditioning frames, None for a first segment, has appended stills."""
_TWO = 0.2  # the probability that they are two
_LONGEST = 40  # a window is at most this many segments into a film
_LEAD = 16  # audio latents encoded before a window, so that it is not affected by the start of the encoder's input
_BEFORE = 16  # frames of a segment before a film; the rest are the film's first latents
_BEFORE_OFFSET = Fraction(1, 75)  # of its picture, so that its audio latents are those of the film


@dataclass(frozen=True, slots=True)
class Kind:
    """The kind of the windows of a batch, which have the same number of tokens.

    overlap: conditioning frames of a continuation, None for a first segment. stills: frames appended as keyframes.
    """

    overlap: int | None
    stills: int = 0

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
    encoded once more in half of the batch, as the frames of a state are. stills: `[B, C, s, 4, 6]`, each encoded by
    itself, of the frames `places` `[B, s]`. picture_mask `[B, 4]` and sound_mask `[B, T]`: 0 where a latent is given.
    offset `[B]`: seconds. lots `[B, 8]`, and bool tied `[B, 8]`: the numbers of which the noise determines those that
    are tied. hidden `[B, 64, D * layers]` and mask `[B, 64]`: prompts.
    """

    kind: Kind
    video: Tensor
    audio: Tensor
    prefix: Tensor
    stills: Tensor
    places: Tensor
    picture_mask: Tensor
    sound_mask: Tensor
    offset: Tensor
    lots: Tensor
    tied: Tensor
    hidden: Tensor
    mask: Tensor


def draw_kind(rng: np.random.Generator) -> Kind:
    """A first segment or a continuation, with the probabilities in FIRST, OVERLAPS and STILLS."""
    overlap = None if rng.random() < FIRST else int(rng.choice(list(OVERLAPS), p=list(OVERLAPS.values())))
    if rng.random() >= STILLS.get(overlap, 0):
        return Kind(overlap)
    return Kind(overlap, 2 if rng.random() < _TWO else 1)


@dataclass(frozen=True, slots=True)
class Scenes:
    """A batch of windows before encoding.

    frames: uint8 `[B, 25, H, W, 3]`. before: uint8 `[B // 2, 25, H, W, 3]`, the previous segments of the first half.
    mel: `[B, 2, T', 64]`, with `lead` more audio latents before the window. The other tensors are those of `Windows`.
    """

    kind: Kind
    worlds: list[world.World]
    frames: Tensor
    before: Tensor
    mel: Tensor
    lead: int
    places: Tensor
    picture_mask: Tensor
    sound_mask: Tensor
    offset: Tensor
    lots: Tensor
    tied: Tensor


@dataclass(frozen=True, slots=True)
class _Window:
    """A window before it is drawn: `start` is the world's time of its first frame. lots, tied: as in `Windows`."""

    scene: world.World
    lots: NDArray[np.float64]
    tied: NDArray[np.bool_]
    timing: SegmentTiming
    start: float
    pattern: Pattern


Draw = Callable[[np.random.Generator], tuple[world.World, NDArray[np.float64]]]


def draw_scenes(
    rng: np.random.Generator,
    count: int,
    kind: Kind | None = None,
    parts: tuple[Part, Part] | None = None,
    draw: Draw = world.draw,
) -> Scenes:
    """`count` windows of worlds that `draw` makes, all of one kind. Kind, and parts that are given, are random."""
    kind = kind or draw_kind(rng)
    windows = [_draw_window(rng, kind, parts or draw_parts(rng, kind.stills), draw) for _ in range(count)]
    worlds, starts = [one.scene for one in windows], [one.start for one in windows]
    back = (world.FRAMES - (kind.overlap or world.FRAMES)) / world.FPS
    lead = _LEAD if kind.overlap else 0
    # latent l covers mel frames 4l - 3 .. 4l of 10 ms; the first one covers only frame 0
    begins = [one.start - float(one.timing.offset) - 0.04 * lead for one in windows]
    length = 4 * (windows[0].timing.audio_latents + lead) - 3
    patterns = [one.pattern for one in windows]
    return Scenes(
        kind,
        worlds,
        _frames(worlds, starts),
        _frames(worlds[: count // 2], [start - back for start in starts]),
        torch.from_numpy(np.stack([sound_clip(w, begin, length).mel for w, begin in zip(worlds, begins, strict=True)])),
        lead,
        torch.from_numpy(np.stack([pattern.stills for pattern in patterns])),
        torch.from_numpy(np.stack([pattern.picture for pattern in patterns])),
        torch.from_numpy(np.stack([pattern.sound for pattern in patterns])),
        torch.tensor([float(one.timing.offset) for one in windows]),
        torch.from_numpy(np.stack([one.lots for one in windows])).float(),
        torch.from_numpy(np.stack([one.tied for one in windows])),
    )


def _draw_window(rng: np.random.Generator, kind: Kind, parts: tuple[Part, Part], draw: Draw) -> _Window:
    scene, lots = draw(rng)
    timing = kind.timing(int(rng.integers(1, _LONGEST)))
    start = float(timing.first_frame - timing.skipped_frames) / world.FPS
    overlap = kind.overlap or int(rng.random() < IMAGE)
    if not overlap and parts[0] == Part.END and rng.random() < 0.5:  # a segment before a film, of any moment
        timing = replace(timing, offset=_BEFORE_OFFSET)
        start = rng.choice([0.0, rng.uniform(0, 20)]) - _BEFORE / world.FPS
    pattern = draw_pattern(
        rng, parts, overlap=overlap, latents=timing.audio_latents, pinned=timing.pinned, stills=kind.stills
    )
    tied = np.zeros(world.LOTS, bool)
    if not kind.overlap:
        lots, tied = decided(rng, scene, lots, pattern)
    return _Window(scene, lots, tied, timing, start, pattern)


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
            self._stills(scenes, video),
            scenes.places.to(self._device),
            scenes.picture_mask.to(self._device),
            scenes.sound_mask.to(self._device),
            scenes.offset.to(self._device),
            scenes.lots.to(self._device),
            scenes.tied.to(self._device),
            *self._prompts([one.prompt for one in scenes.worlds]),
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

    def _stills(self, scenes: Scenes, video: Tensor) -> Tensor:
        """The latents of the appended stills."""
        if not scenes.kind.stills:
            return video[:, :, :0]
        rows = torch.arange(len(video))[:, None]
        single = scenes.frames[rows, scenes.places].flatten(0, 1)[:, None]
        latents = self._encode(single).squeeze(2)
        return latents.reshape(*scenes.places.shape, *latents.shape[1:]).transpose(1, 2)

    def _encode_sound(self, scenes: Scenes) -> Tensor:
        """Audio latents of each window; those of a continuation are encoded with the sound before it."""
        latents = self._audio_vae.encode(scenes.mel.to(self._device)).latent_dist.mode().float()[:, :, scenes.lead :]
        normal: Tensor = (latents - self._audio_vae.latents_mean) / self._audio_vae.latents_std
        return normal


def _wide(channels: Tensor) -> Tensor:
    return channels.float()[None, :, None, None, None]
