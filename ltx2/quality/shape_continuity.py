"""Shapes across a join: whether each goes on where it was, the way it went, as it looked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ltx2.quality.shape_tracking import Track

Velocity = tuple[float, float]
Places = NDArray[np.float64]

NOWHERE: Velocity = (math.nan, math.nan)

_NEAR = 6  # frames at either side of a join over which motion is measured
SAME_COLOUR = 90.0  # in RGB space, up to which a colour is the same shape's
_STANDS_STILL = 0.3  # pixels per frame
_MOVES = 0.6
_SAME_WAY = 0.5  # cosine of the angle up to which two ways are one: 60 degrees
_AT_WALL = 0.03  # of the picture's width or height, from a shape's edge to the wall it may have bounced off
_TRIANGLE = 1.26  # half its width and height, on average, over the radius of the circle of its area


@dataclass(frozen=True, slots=True)
class ShapeAtSeam:
    """One shape across a join; NaN where something hides it, and everywhere after the join where it was lost.

    jump, usual_jump: pixels it moves at the join, and from frame to frame around it. ways: its velocity before and
    after, pixels per frame. turned: whether it goes another way, or stops, and no wall is the reason. colour_change:
    distance in RGB, 0..441. kinds: what it looks like before and after, empty where that cannot be told. is_lost: all
    of it was there in the last frame before, and nothing of its colour is there after.
    """

    jump: float
    usual_jump: float
    ways: tuple[Velocity, Velocity]
    turned: bool
    colour_change: float
    kinds: tuple[str, str]
    is_lost: bool


def across(before: Sequence[Track], after: Sequence[Track], size: tuple[int, int]) -> tuple[ShapeAtSeam, ...]:
    """Each shape of `before` with the shape of its colour in `after`; size: the picture's width and height."""
    return tuple(_lost(one) if other is None else _followed(one, other, size) for one, other in pairs(before, after))


def appeared(before: Sequence[Track], after: Sequence[Track]) -> int:
    """How many shapes are all there in the first frame of `after`, and were not there before."""
    known = {id(other) for _, other in pairs(before, after)}
    return sum(bool(one.whole[0]) for one in after if id(one) not in known)


def pairs(before: Sequence[Track], after: Sequence[Track]) -> list[tuple[Track, Track | None]]:
    """Each shape of `before` with the one of `after` that is nearest to its colour, None where none is near."""
    left, found = list(after), []
    for one in before:
        distances = [colour_change(one, other) for other in left]
        near = distances and min(distances) <= SAME_COLOUR
        found.append((one, left.pop(int(np.argmin(distances))) if near else None))
    return found


def colour_change(one: Track, other: Track) -> float:
    """Distance of two shapes' colours in RGB, 0..441."""
    return float(np.linalg.norm(one.colour - other.colour))


def _lost(one: Track) -> ShapeAtSeam:
    ways = _velocity(_seen(one)[-_NEAR - 1 :]), NOWHERE
    return ShapeAtSeam(math.nan, math.nan, ways, False, math.nan, (one.kind, ""), bool(one.whole[-1]))


def _followed(one: Track, other: Track, size: tuple[int, int]) -> ShapeAtSeam:
    last, first = _seen(one)[-_NEAR - 1 :], _seen(other)[: _NEAR + 1]
    radius = math.sqrt(float(np.nanmax(np.concatenate([one.areas, other.areas]))) / math.pi)
    if "triangle" in (one.kind, other.kind):
        radius *= _TRIANGLE
    return ShapeAtSeam(
        jump=float(np.linalg.norm(first[0] - last[-1])),
        usual_jump=_median(np.linalg.norm(np.concatenate([np.diff(last, axis=0), np.diff(first, axis=0)]), axis=1)),
        ways=(_velocity(last), _velocity(first)),
        turned=_turned(last, first, radius, size),
        colour_change=colour_change(one, other),
        kinds=(one.kind, other.kind),
        is_lost=False,
    )


def _seen(one: Track) -> Places:
    """Its centres `[T, 2]` where all of it is seen, else NaN."""
    return np.where(one.whole[:, None], one.centres, np.nan)


def _velocity(places: Places) -> Velocity:
    """The straight path nearest to places `[T, 2]`, as pixels per frame; NaN where fewer than three are known."""
    frames = np.flatnonzero(~np.isnan(places[:, 0]))
    if len(frames) < 3:
        return NOWHERE
    x, y = np.polyfit(frames, places[frames], 1)[0]
    return float(x), float(y)


def _turned(last: Places, first: Places, radius: float, size: tuple[int, int]) -> bool:
    """Whether it goes another way, or stops; along an axis whose wall is near, only its pace counts."""
    before, after = np.array(_velocity(last)), np.array(_velocity(first))
    if np.isnan(before).any() or np.isnan(after).any():
        return False
    for axis, extent in enumerate(size):
        pace = [_median(np.abs(np.diff(places[:, axis]))) for places in (last, first)]
        places = np.concatenate([last[:, axis], first[:, axis]])
        reach = radius + _AT_WALL * extent + np.nanmax([0.0, *pace])
        if np.nanmin(places) < reach or np.nanmax(places) > extent - reach:
            before[axis], after[axis] = pace
    speeds = float(np.linalg.norm(before)), float(np.linalg.norm(after))
    if min(speeds) < _STANDS_STILL:
        return max(speeds) > _MOVES
    return float(before @ after) < _SAME_WAY * speeds[0] * speeds[1]


def _median(values: Places) -> float:
    """The median of what is a number; NaN where nothing is."""
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else math.nan
