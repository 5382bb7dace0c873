"""Shapes across a join, from tracks that are written down."""

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


def seen(centres: ArrayLike, *, colour: tuple[float, float, float] = RED, whole: ArrayLike = True) -> Track:
    """A circle of 16 pixels radius, with its centre there from frame to frame."""
    places = np.array(centres, float)
    areas = np.full(len(places), 804.0)
    return Track(places, np.array(colour), areas, np.broadcast_to(np.array(whole), len(places)), "circle")


def line(start: tuple[float, float], step: tuple[float, float], count: int = 7) -> list[tuple[float, float]]:
    return [(start[0] + index * step[0], start[1] + index * step[1]) for index in range(count)]


def crossing(one: Track, other: Track) -> ShapeAtSeam:
    (found,) = across([one], [other], SIZE)
    return found


@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(-20, 20))
def test_a_jump_and_what_is_usual_are_told_in_pixels(x: float, y: float, beyond: float) -> None:
    # Given
    one = line((96, 64), (x, y))
    other = line((one[-1][0] + x + beyond, one[-1][1] + y), (x, y))
    # When
    found = crossing(seen(one), seen(other))
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
def test_which_ways_are_a_turn_in_the_open(
    before: tuple[float, float], after: tuple[float, float], turned: bool
) -> None:
    assert crossing(seen(line((96, 64), before)), seen(line((98, 64), after))).turned == turned


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
def test_at_a_wall_only_the_way_along_it_and_the_pace_count(
    start: tuple[float, float], before: tuple[float, float], after: tuple[float, float], turned: bool
) -> None:
    assert crossing(seen(line(start, before, 4)), seen(line(start, after, 4))).turned == turned


def test_a_triangle_turns_farther_from_a_wall_than_a_circle_of_its_area() -> None:
    # Given
    down, up = seen(line((96, 97), (0, 1))), seen(line((96, 104), (0, -1)))
    # When
    circle = crossing(down, up)
    triangle = crossing(*(replace(one, kind="triangle") for one in (down, up)))
    # Then
    assert circle.turned
    assert not triangle.turned


def test_where_something_hides_it_nothing_is_said() -> None:
    # Given a shape that is whole in every other frame only, and not at the join
    hidden = [True, False] * 3 + [False]
    # When
    found = crossing(seen(line((170, 64), (0.5, 0)), whole=hidden), seen(line((174, 64), (-0.5, 0))))
    # Then
    assert np.isnan(found.jump)
    assert not found.turned
    assert not found.is_lost


def test_a_shape_is_known_by_its_colour() -> None:
    red, blue, paler = seen(line((50, 50), (1, 0))), (44.0, 84.0, 204.0), (230.0, 90.0, 80.0)
    # When
    found = across([red], [seen(line((90, 50), (1, 0)), colour=blue), seen(line((57, 50), (1, 0)), colour=paler)], SIZE)
    # Then
    assert found[0].jump == pytest.approx(1)
    assert found[0].colour_change == pytest.approx(np.linalg.norm(np.subtract(RED, paler)))
    assert appeared([red], [seen(line((57, 50), (1, 0)), colour=blue)]) == 1
    assert appeared([red], [seen(line((57, 50), (1, 0)))]) == 0
    assert appeared([], [seen(line((57, 50), (1, 0)), whole=[False] + [True] * 6)]) == 0  # it came from behind another


@pytest.mark.parametrize("at_last", [True, False])
def test_a_shape_is_lost_that_was_all_there_before(at_last: bool) -> None:
    one = seen(line((50, 50), (1, 0)), whole=[True] * 6 + [at_last])
    (found,) = across([one], [], SIZE)
    assert found.is_lost == at_last
    assert np.isnan(found.jump)


@given(st.lists(st.booleans(), min_size=1, max_size=9), st.lists(st.booleans(), min_size=1, max_size=9))
def test_any_tracks_are_taken(before: list[bool], after: list[bool]) -> None:
    found = crossing(
        seen(line((170, 64), (1, 1), len(before)), whole=before),
        seen(line((174, 64), (-1, 1), len(after)), whole=after),
    )
    assert np.isnan(found.jump) != (before[-1] and after[0])
