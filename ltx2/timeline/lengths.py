"""The few lengths of segments whose length a duration head chooses: each is a shape that is warmed up."""

from __future__ import annotations

from fractions import Fraction

from ltx2.timeline.arithmetic import TEMPORAL_COMPRESSION

MOST_LENGTHS = 6
SHORTEST_FRAMES = 9


def auto_lengths(longest: int) -> tuple[int, ...]:
    """Lengths in frames, 8k+1, ascending, at most six: the sixths of `longest`, rounded up to 8k+1."""
    sixths = (-(-longest * part // MOST_LENGTHS) for part in range(1, MOST_LENGTHS + 1))
    rounded = (-(-(frames - 1) // TEMPORAL_COMPRESSION) * TEMPORAL_COMPRESSION + 1 for frames in sixths)
    return tuple(sorted({max(SHORTEST_FRAMES, frames) for frames in rounded}))


def nearest_length(seconds: float, fps: Fraction, longest: int) -> int:
    """The one of `auto_lengths(longest)` that is nearest to a shot of so many seconds; of two the shorter."""
    wanted = Fraction(seconds) * fps
    return min(auto_lengths(longest), key=lambda frames: abs(frames - wanted))
