"""How well a rendered segment joins the one before it, and whether it leaps inside: figures to choose by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ltx2.quality.audio_metrics import Sound, measure_sound
from ltx2.quality.continuity import Continuity, broken, excess, join_between
from ltx2.quality.insides import insides, leaps
from ltx2.timeline import SegmentTiming


@dataclass(frozen=True, slots=True)
class Join:
    """A join to the segment before. wrong: what is out of bounds, in words. excess: the largest part of a bound."""

    wrong: tuple[str, ...]
    excess: float

    @property
    def rank(self) -> tuple[int, float]:
        """The smaller, the better."""
        return len(self.wrong), self.excess


def join_of(
    tail: Sequence[NDArray[np.uint8]], frames: NDArray[np.uint8], sound: Sound, rate: int, timing: SegmentTiming
) -> Join:
    """Measure a continuation as it was rendered.

    tail: the last frames `[H, W, 3]` of the segment before, which this one repeats. frames: all of its frames
    `[T, H, W, 3]`. sound: all of it, `[C, n]`, whose begin is that of the segment before, `rate` samples per second.
    """
    at = round(timing.picture_start * rate)
    return join_in(
        join_between(timing, np.stack(list(tail)), frames[timing.skipped_frames :], measure_sound(sound, rate, at, at))
    )


def join_in(found: Continuity) -> Join:
    """The join of two segments that were measured, with what leaps inside the second one."""
    return Join((*broken(found.seams), *leaps(insides(found)[1:])), excess(found.seams[0]))
