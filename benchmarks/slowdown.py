"""Whether work is slower while something else goes on, from windows of time without it and with it in turn.

A window with it is compared with the mean of the windows without it right before and after, so that a machine that gets
slower or faster evenly changes nothing. The figure of a window is the median of what it has, so that a few hindered
pieces of work change nothing either. How sure the result is follows from the figures' own spread, without assuming a
distribution: between which of the sorted figures the true median lies in 19 cases of 20.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

SURE = 0.95
FEWEST = 3
"""Pieces of work in a window that has a figure."""


@dataclass(frozen=True, slots=True)
class Slowdown:
    """By what share work is slower. low, high: the median is between them with a probability of `sure`."""

    median: float
    low: float
    high: float
    sure: float
    pairs: int

    @classmethod
    def of(cls, found: Sequence[float]) -> Slowdown | None:
        """The median of these; None if there are none."""
        if not found:
            return None
        ordered, count = sorted(found), len(found)
        # the median is below the one at `skip`, or above its mirror image, if so many of `count` coins show tails
        surely = [1 - 2 * sum(comb(count, below) for below in range(skip + 1)) / 2**count for skip in range(count)]
        skip = max((skip for skip in range(count) if surely[skip] >= SURE), default=0)
        return cls(statistics.median(ordered), ordered[skip], ordered[-1 - skip], max(0.0, surely[skip]), count)

    def verdict(self, limit: float) -> str:
        """Whether it is above the limit, in words."""
        if self.sure < SURE:
            return f"too few windows to say whether it is more than {limit:.0%}"
        if self.high <= limit:
            return f"at most {limit:.0%}"
        if self.low > limit:
            return f"MORE than {limit:.0%}"
        return f"not certain that it is at most {limit:.0%}"

    def __str__(self) -> str:
        return (
            f"{self.median:+.1%} ({self.low:+.1%} to {self.high:+.1%}, sure to {self.sure:.0%}, "
            f"{self.pairs} comparisons)"
        )


def against_neighbours(windows: Sequence[tuple[str, Sequence[float]]], name: str, quiet: str) -> list[float]:
    """By what share each window `name` is slower than the windows `quiet` next to it.

    windows: in order; the name of each, and how long each piece of work took in it. A window with fewer than `FEWEST`
    pieces is left out, and so is one that has none of `quiet` on both sides.
    """
    found = []
    for before, (mine, took), after in zip(windows, windows[1:], windows[2:], strict=False):
        if mine == name and before[0] == after[0] == quiet and min(map(len, (before[1], took, after[1]))) >= FEWEST:
            around = (statistics.median(before[1]) + statistics.median(after[1])) / 2
            found.append(statistics.median(took) / around - 1)
    return found
