"""A film's given sound: the part that belongs to a segment, and the whole at the film's rate.

Audio latent 0 of a scene lies at the film time of its first frame, and those of all its segments lie on one grid of
40 ms. So a segment's latents are the same as if the whole scene were encoded at once: each part is encoded with what
comes before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import gcd

import numpy as np

from ltx2.errors import MediaError
from ltx2.media.sound_file import open_flac
from ltx2.media.sources.extension import LEAD, SAMPLES_PER_LATENT, SOUND_RATE
from ltx2.media.sources.samples import Sound, resampled
from ltx2.timeline import AUDIO_LATENTS_PER_SECOND, SegmentTiming, round_half_up

_LATENT = Fraction(1, AUDIO_LATENTS_PER_SECOND)
_EDGE_S = Fraction(1, 20)  # around a window, for the resampler


@dataclass(frozen=True, slots=True)
class Window:
    """A part of the film's sound. start: film seconds, not negative. latents: its length, `lead` of them to lead in."""

    start: Fraction
    latents: int
    lead: int


def window_of(timing: SegmentTiming) -> Window:
    """The sound that a segment's latents are made from; without a lead only where the film begins.

    Raises:
        MediaError: the segment's sound begins before the film, as after a state from outside.
    """
    start = timing.first_frame / timing.shape.fps - timing.picture_start
    if start < 0:
        raise MediaError(f"the sound of segment {timing.index} begins before the film; it cannot be given")
    lead = min(LEAD, int(start / _LATENT))
    return Window(start - lead * _LATENT, timing.audio_latents + lead, lead)


class Track:
    """Stored sound, a FLAC of `sound_file`, of which only what is asked for is decoded."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def window(self, window: Window) -> Sound:
        """The samples of a window at 16 kHz, 640 for each latent; silence where the track has ended.

        Raises:
            MediaError: not sound of `sound_file`, or damaged.
        """
        start = max(Fraction(0), window.start - _EDGE_S)
        seconds = window.latents * _LATENT + window.start - start + _EDGE_S
        with open_flac(self._data, start=start) as (rate, blocks):
            part = first_samples(blocks, round_half_up(seconds * rate))
            samples = np.concatenate([np.zeros((0, 2), np.float32), *resampled(part, rate, SOUND_RATE)])
        return fitted(
            samples[round_half_up((window.start - start) * SOUND_RATE) :], window.latents * SAMPLES_PER_LATENT
        )

    def at(self, rate: int, *, first: int = 0) -> Iterator[Sound]:
        """The samples in blocks, resampled once to `rate`; exactly the stored ones if they have it.

        first: the number of the first one at `rate`. Of what is before it, only what the resampler needs is decoded;
        the samples are those of the whole track.

        Raises:
            MediaError: as `window`.
        """
        with open_flac(self._data) as (own, _):
            grid = rate // gcd(own, rate)  # every so many samples lie at the time of a stored one
        start = max(0, first - round_half_up(_EDGE_S * rate)) // grid * grid
        with open_flac(self._data, start=Fraction(start, rate)) as (own, blocks):
            yield from without_first(resampled(blocks, own, rate), first - start)


class Blocks:
    """Hands out sound that comes in blocks in pieces of any length; silence once it has ended."""

    def __init__(self, blocks: Iterator[Sound]) -> None:
        self._blocks = blocks
        self._rest: Sound = np.zeros((0, 2), np.float32)

    def take(self, count: int) -> Sound:
        """The next `count` samples."""
        parts, missing = [self._rest[:count]], count - len(self._rest)
        self._rest = self._rest[count:]
        while missing > 0 and (block := next(self._blocks, None)) is not None:
            parts.append(block[:missing])
            self._rest = block[missing:]
            missing -= len(parts[-1])
        return fitted(np.concatenate(parts), count)


def without_first(blocks: Iterator[Sound], count: int) -> Iterator[Sound]:
    """`blocks` after their first `count` samples."""
    for block in blocks:
        yield block[count:]
        count = max(0, count - len(block))


def first_samples(blocks: Iterator[Sound], count: int) -> Iterator[Sound]:
    """The first `count` samples of `blocks`."""
    for block in blocks:
        yield block[:count]
        count -= len(block)
        if count <= 0:
            return


def fitted(sound: Sound, count: int) -> Sound:
    """`sound`, cut to `count` samples, or with silence after it."""
    return np.pad(sound[:count], ((0, max(0, count - len(sound))), (0, 0)))
