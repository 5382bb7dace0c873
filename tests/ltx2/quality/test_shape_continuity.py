"""Comparing shapes across a join, with given tracks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from ltx2.quality.shape_continuity import ShapeAtSeam, across, appeared
from ltx2.quality.shape_tracking import Track

SIZE = (192, 128)
RED = (214.0, 48.0, 42.0)


def circle_at(centres: ArrayLike, *, colour: tuple[float, float, float] = RED, whole: ArrayLike = True) -> Track:
    """The track of a circle of radius 16 pixels with one centre per frame."""
    places = np.array(centres, float)
    areas = np.full(len(places), 804.0)
    return Track(places, np.array(colour), areas, np.broadcast_to(np.array(whole), len(places)), "circle")


def line(start: tuple[float, float], step: tuple[float, float], count: int = 7) -> list[tuple[float, float]]:
    return [(start[0] + index * step[0], start[1] + index * step[1]) for index in range(count)]


def compared(one: Track, other: Track) -> ShapeAtSeam:
    (found,) = across([one], [other], SIZE)
    return found


@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(-20, 20))
def test_the_jump_and_the_usual_motion_are_in_pixels(x: float, y: float, beyond: float) -> None:
    # Given
    one = line((96, 64), (x, y))
    other = line((one[-1][0] + x + beyond, one[-1][1] + y), (x, y))
    # When
    found = compared(circle_at(one), circle_at(other))
    # Then
    assert found.jump == pytest.approx(np.hypot(x + beyond, y), abs=1e-6)
    assert found.usual_jump == pytest.approx(np.hypot(x, y), abs=1e-6)
    assert found.ways == (pytest.approx((x, y), abs=1e-6),) * 2


@pytest.mark.parametrize(
    ("before", "after", "turned"),
    [
        ((2, 0), (2, 0), False),
        ((2, 0), (1.5, 1.2), False),
        ((2, 0), (0, 2), True),
        ((2, 0), (-2, 0), True),
        ((2, 1), (2, -1), False),
        ((2, 0), (0, 0), True),
        ((0, 0), (2, 0), True),
        ((0.2, 0), (-0.2, 0), False),
        ((0.5, 0), (0, 0.2), False),
    ],
)
def test_away_from_walls_more_than_60_degrees_or_a_stop_is_a_turn(
    before: tuple[float, float], after: tuple[float, float], turned: bool
) -> None:
    assert compared(circle_at(line((96, 64), before)), circle_at(line((98, 64), after))).turned == turned


@pytest.mark.parametrize(
    ("start", "before", "after", "turned"),
    [
        ((172, 64), (1, 0), (-1, 0), False),
        ((20, 64), (-1, 0), (1, 0), False),
        ((96, 108), (0, 1), (0, -1), False),
        ((96, 20), (0, -1), (0, 1), False),
        ((172, 64), (0, 1), (0, -1), True),
        ((140, 64), (1, 0), (-1, 0), True),
        ((172, 64), (1, 1), (-1, 1), False),
        ((172, 64), (1, 0), (0, 0), True),
    ],
)
def test_at_a_wall_only_the_direction_along_it_and_the_speed_count(
    start: tuple[float, float], before: tuple[float, float], after: tuple[float, float], turned: bool
) -> None:
    assert compared(circle_at(line(start, before, 4)), circle_at(line(start, after, 4))).turned == turned


def test_a_triangle_bounces_farther_from_a_wall_than_a_circle_of_its_area() -> None:
    # Given
    down, up = circle_at(line((96, 97), (0, 1))), circle_at(line((96, 104), (0, -1)))
    # When
    circle = compared(down, up)
    triangle = compared(*(replace(one, kind="triangle") for one in (down, up)))
    # Then
    assert circle.turned
    assert not triangle.turned


def test_a_shape_that_is_hidden_at_the_join_is_not_judged() -> None:
    # Given a shape that is hidden in every other frame and at the join
    whole = [True, False] * 3 + [False]
    # When
    found = compared(circle_at(line((170, 64), (0.5, 0)), whole=whole), circle_at(line((174, 64), (-0.5, 0))))
    # Then
    assert np.isnan(found.jump)
    assert not found.turned
    assert not found.is_lost


def test_shapes_are_matched_by_colour() -> None:
    # Given
    near, blue, paler = line((57, 50), (1, 0)), (44.0, 84.0, 204.0), (230.0, 90.0, 80.0)
    red = circle_at(line((50, 50), (1, 0)))
    # When
    found = across([red], [circle_at(line((90, 50), (1, 0)), colour=blue), circle_at(near, colour=paler)], SIZE)
    # Then
    assert found[0].jump == pytest.approx(1)
    assert found[0].colour_change == pytest.approx(np.linalg.norm(np.subtract(RED, paler)))
    assert appeared([red], [circle_at(near, colour=blue)]) == 1
    assert appeared([red], [circle_at(near)]) == 0
    assert appeared([], [circle_at(near, whole=[False] + [True] * 6)]) == 0  # it was hidden at first


@pytest.mark.parametrize("was_whole", [True, False])
def test_a_shape_is_lost_only_if_it_was_whole_before(was_whole: bool) -> None:
    one = circle_at(line((50, 50), (1, 0)), whole=[True] * 6 + [was_whole])
    (found,) = across([one], [], SIZE)
    assert found.is_lost == was_whole
    assert np.isnan(found.jump)


@given(st.lists(st.booleans(), min_size=1, max_size=9), st.lists(st.booleans(), min_size=1, max_size=9))
def test_any_tracks_are_accepted(before: list[bool], after: list[bool]) -> None:
    found = compared(
        circle_at(line((170, 64), (1, 1), len(before)), whole=before),
        circle_at(line((174, 64), (-1, 1), len(after)), whole=after),
    )
    assert np.isnan(found.jump) != (before[-1] and after[0])
