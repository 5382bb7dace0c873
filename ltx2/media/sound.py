"""Composing a film's sound from the decoded sound of its segments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ltx2.errors import MediaError
from ltx2.timeline import SoundSpan


class SoundComposer:
    """Adds up the segments' sounds at their film positions, with fades. Keeps at most one segment in memory."""

    def __init__(self, spans: Sequence[SoundSpan], samples: int, channels: int) -> None:
        """spans: from `sound_spans`. samples: the film's length, the sum of all returned blocks."""
        self._spans = spans
        self._ends = [*(span.film_start for span in spans[1:]), samples]
        self._position = 0  # all film samples before it have been returned
        self._pending = np.zeros((0, channels), np.float32)

    def add(self, i: int, sound: NDArray[np.float32]) -> NDArray[np.float32]:
        """Add the sound of segment i = 0, 1, ..., float32 [samples, channels]; return the samples that are now final.

        Raises:
            MediaError: less sound than the segment's span needs.
        """
        span, end = self._spans[i], self._ends[i]
        length = span.film_end - span.film_start
        piece = sound[span.source_start : span.source_start + length]
        if len(piece) < length:
            raise MediaError(f"{len(sound)} samples of sound, expected at least {span.source_start + length}")
        reach = max(end, span.film_end, self._position + len(self._pending))
        block = np.zeros((reach - self._position, self._pending.shape[1]), np.float32)
        block[: len(self._pending)] = self._pending
        block[span.film_start - self._position : span.film_end - self._position] += piece * _envelope(span)
        done = end - self._position
        self._position, self._pending = end, block[done:].copy()
        return block[:done]


def composed(
    spans: Sequence[SoundSpan], sounds: Sequence[NDArray[np.float32]], start: int, end: int
) -> NDArray[np.float32]:
    """The film's sound from sample `start` to `end`, float32 [samples, channels], of the segments that sound there.

    sounds: the decoded sound of each span's segment, [samples, channels]; as far as the span needs it.
    """
    block = np.zeros((end - start, sounds[0].shape[1]), np.float32)
    for span, sound in zip(spans, sounds, strict=True):
        first, last = max(start, span.film_start), min(end, span.film_end)
        if first < last:
            shift = span.source_start - span.film_start
            gain = _envelope(span)[first - span.film_start : last - span.film_start]
            block[first - start : last - start] += sound[first + shift : last + shift] * gain
    return block


def _envelope(span: SoundSpan) -> NDArray[np.float32]:
    """The span's gain over time [samples, 1]; both sides of a crossfade add up to 1."""
    envelope = np.ones((span.film_end - span.film_start, 1), np.float32)
    envelope[: span.fade_in, 0] = _rise(span.fade_in)
    envelope[len(envelope) - span.fade_out :, 0] *= _rise(span.fade_out)[::-1]
    return envelope


def _rise(samples: int) -> NDArray[np.float32]:
    return ((np.arange(samples) + 0.5) / max(samples, 1)).astype(np.float32)
