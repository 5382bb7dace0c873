"""Continuity of shapes at a join: position, direction, colour and kind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ltx2.quality.shape_tracking import Track

Velocity = tuple[float, float]
Positions = NDArray[np.float64]

UNKNOWN_VELOCITY: Velocity = (math.nan, math.nan)

_NEAR = 6  # frames on each side of a join over which motion is measured
SAME_COLOUR = 90.0  # largest distance in RGB space between colours of the same shape
_MAX_RESTING_SPEED = 0.3  # pixels per frame; a slower shape rests
_MIN_MOVING_SPEED = 0.6  # pixels per frame; a faster shape moves
_SAME_DIRECTION = 0.5  # cosine of the largest angle between equal directions: 60 degrees
_AT_WALL = 0.03  # part of the width or height between a shape's edge and a wall that it may have bounced off
_TRIANGLE = 1.26  # half of a triangle's mean width and height, divided by the radius of the circle of its area


@dataclass(frozen=True, slots=True)
class ShapeAtSeam:
    """One shape at a join. Values are NaN if the shape is hidden, and values after the join if it is lost.

    jump, usual_jump: pixels that it moves at the join, and from frame to frame around it. ways: its velocity before and
    after, pixels per frame. turned: whether it changes direction or stops with no wall near. colour_change: distance in
    RGB, 0..441. kinds: its kind before and after, empty if unknown. is_lost: all of it was visible in the last frame
    before, and no shape of its colour follows.
    """

    jump: float
    usual_jump: float
    ways: tuple[Velocity, Velocity]
    turned: bool
    colour_change: float
    kinds: tuple[str, str]
    is_lost: bool


def across(before: Sequence[Track], after: Sequence[Track], size: tuple[int, int]) -> tuple[ShapeAtSeam, ...]:
    """Compare each shape of `before` with the shape of its colour in `after`. size: the picture's width and height."""
    return tuple(_lost(one) if other is None else _compared(one, other, size) for one, other in pairs(before, after))


def appeared(before: Sequence[Track], after: Sequence[Track]) -> int:
    """How many shapes are whole in the first frame of `after` and match no shape of `before`."""
    known = {id(other) for _, other in pairs(before, after)}
    return sum(bool(one.whole[0]) for one in after if id(one) not in known)


def pairs(before: Sequence[Track], after: Sequence[Track]) -> list[tuple[Track, Track | None]]:
    """Each shape of `before` with the shape of `after` that is nearest in colour, or None if none is near."""
    unmatched, found = list(after), []
    for one in before:
        distances = [colour_change(one, other) for other in unmatched]
        near = distances and min(distances) <= SAME_COLOUR
        found.append((one, unmatched.pop(int(np.argmin(distances))) if near else None))
    return found


def colour_change(one: Track, other: Track) -> float:
    """Distance of two shapes' colours in RGB, 0..441."""
    return float(np.linalg.norm(one.colour - other.colour))


def _lost(one: Track) -> ShapeAtSeam:
    ways = _velocity(_visible_centres(one)[-_NEAR - 1 :]), UNKNOWN_VELOCITY
    return ShapeAtSeam(math.nan, math.nan, ways, False, math.nan, (one.kind, ""), bool(one.whole[-1]))


def _compared(one: Track, other: Track, size: tuple[int, int]) -> ShapeAtSeam:
    last, first = _visible_centres(one)[-_NEAR - 1 :], _visible_centres(other)[: _NEAR + 1]
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


def _visible_centres(one: Track) -> Positions:
    """Its centres `[T, 2]`; NaN in frames in which not all of it is visible."""
    return np.where(one.whole[:, None], one.centres, np.nan)


def _velocity(positions: Positions) -> Velocity:
    """Slope of a straight line through positions `[T, 2]`, pixels per frame; NaN if fewer than three are known."""
    frames = np.flatnonzero(~np.isnan(positions[:, 0]))
    if len(frames) < 3:
        return UNKNOWN_VELOCITY
    x, y = np.polyfit(frames, positions[frames], 1)[0]
    return float(x), float(y)


def _turned(last: Positions, first: Positions, radius: float, size: tuple[int, int]) -> bool:
    """Whether it changes direction or stops. Along an axis with a wall near, only the speed is compared."""
    before, after = np.array(_velocity(last)), np.array(_velocity(first))
    if np.isnan(before).any() or np.isnan(after).any():
        return False
    for axis, extent in enumerate(size):
        speed = [_median(np.abs(np.diff(positions[:, axis]))) for positions in (last, first)]
        positions = np.concatenate([last[:, axis], first[:, axis]])
        reach = radius + _AT_WALL * extent + np.nanmax([0.0, *speed])
        if np.nanmin(positions) < reach or np.nanmax(positions) > extent - reach:
            before[axis], after[axis] = speed
    speeds = float(np.linalg.norm(before)), float(np.linalg.norm(after))
    if min(speeds) < _MAX_RESTING_SPEED:
        return max(speeds) > _MIN_MOVING_SPEED
    return float(before @ after) < _SAME_DIRECTION * speeds[0] * speeds[1]


def _median(values: Positions) -> float:
    """The median of the values that are not NaN; NaN if there are none."""
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else math.nan
