"""Stills to which two paths lead, and which of the two a noise stands for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from training import world
from training.bounces import decided, other_start
from training.patterns import Pattern
from training.world import Shape, World

STILL = 18
X, Y = 2, 3  # of LOTS: the place of the first shape


def given(*stills: int, sound: int = 1) -> Pattern:
    return Pattern(np.ones(4, np.float32), np.full(2, sound, np.float32), np.array(stills, np.int64))


def scene(start: float) -> World:
    """A circle that moves up from height `start`, 36 pixels until the still; walls are at 20 and 108."""
    return World((Shape("circle", "red", "up", "", 20, 48, 60, start),), "blue", "low hum")


def lots_of(world_: World, pattern: Pattern, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    return decided(np.random.default_rng(seed), world_, np.full(world.LOTS, 0.9), pattern)


def test_a_still_has_its_start_and_the_other_one() -> None:
    rng, time, others = np.random.default_rng(0), np.array([STILL / world.FPS]), 0
    for _ in range(60):
        # Given a shape that is at some height in the still
        shape, way = (drawn := world.draw(rng)[0].shapes[0]), world.DIRECTIONS[drawn.way][1]
        if not way:
            continue
        there = shape.centre(time)[1]
        # When
        other = other_start(shape, 1, way * shape.speed * time[0])
        # Then these are all the heights from which it gets there
        starts = np.linspace(shape.radius, world.HEIGHT - shape.radius, 401)
        ends = np.array([replace(shape, y=start).centre(time)[1][0] for start in starts])
        found, expected = starts[np.abs(ends - there) < 0.2], np.array([shape.y] + [other] * (other is not None))
        assert all(np.abs(found - one).min() < 0.5 for one in expected)
        assert all(np.abs(expected - one).min() < 0.5 for one in found)
        others += other is not None
    assert 5 < others < 40


def test_the_noise_decides_between_two_starts() -> None:
    # Given a circle at height 32 in the still: it came from 68, or from 44 by way of the upper wall at 20
    straight, bounced = scene(44 + 24), scene(8 + 36)
    for one, low, high in ((straight, 0.5, 1), (bounced, 0, 0.5)):
        # When
        drawn = [lots_of(one, given(STILL), seed) for seed in range(20)]
        # Then its number is in the half of that start, and of all places only this one is tied
        values = np.array([lots[Y] for lots, _ in drawn])
        assert ((values >= low) & (values <= high)).all()
        assert np.ptp(values) > 0.3
        assert all(tied[Y] and not tied[X] for _, tied in drawn)


def test_the_noise_decides_no_place_that_is_shown() -> None:
    two_starts, one_start = scene(68), scene(100)
    for one, pattern in (
        (one_start, given(STILL)),
        (two_starts, given(5, STILL)),
        (two_starts, given(STILL, sound=0)),  # the pitch is the height
    ):
        lots, tied = lots_of(one, pattern)
        assert not tied[Y]
        assert lots[Y] == 0.9
    # And without a still it is as without stills
    lots, tied = lots_of(two_starts, given())
    assert tied.all()
    assert (lots == 0.9).all()
