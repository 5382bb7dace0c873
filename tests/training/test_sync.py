"""Measuring whether the pitch of the sound matches the video."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from ltx2.timeline import SegmentShape, film_frames, film_samples, plan
from training.films import Film
from training.sync import out_of_tune
from training.world import FPS, Shape, World

RATE = 16_000
RISING = World((Shape("circle", "red", "up and right", "", 16, 44, 70, 100),), "blue", "low hum")


def film(world: World, *, sound_later: float = 0) -> Film:
    timings = plan(SegmentShape(25, Fraction(FPS)), [False] * 4)
    frames = film_frames(timings)
    pieces = np.split(world.frames(0, frames), [timing.first_frame for timing in timings[1:]])
    sound = world.samples(sound_later, film_samples(frames, Fraction(FPS), RATE), RATE)
    return Film(pieces, sound, RATE, timings)


def off(world: World, *, sound_later: float = 0) -> list[float]:
    made = film(world, sound_later=sound_later)
    return out_of_tune(made.continuity(), made, world)


@pytest.mark.parametrize("hum", ["low hum", "high hum"])
def test_a_correct_film_is_in_tune(hum: str) -> None:
    found = off(replace(RISING, sound=hum))
    assert len(found) == 4
    assert max(found) < 0.2


@pytest.mark.parametrize("later", [-0.5, 0.5])
def test_sound_half_a_second_off_is_out_of_tune(later: float) -> None:
    found = off(RISING, sound_later=later)
    assert found[0] == pytest.approx(0.5 * 44 / 128 * 12, abs=0.4)
    assert min(found[:2]) > 1  # later the circle bounces, and may have the same height half a second before or after


def test_the_pitch_must_match_the_first_shape_of_the_prompt() -> None:
    # Given a film with a second shape at another height
    both = replace(RISING, shapes=(RISING.shapes[0], Shape("square", "white", "right", "", 19, 44, 60, 40)))
    # When / Then
    assert max(off(both)) < 0.2


def test_without_a_tone_or_the_shape_nothing_is_measured() -> None:
    silent, other = (
        replace(RISING, sound="silence"),
        replace(RISING, shapes=(replace(RISING.shapes[0], colour="green"),)),
    )
    made = film(RISING)
    assert np.isnan(off(silent)).all()
    assert np.isnan(out_of_tune(made.continuity(), made, other)).all()
    quiet = replace(made, sound=0 * made.sound)
    assert np.isnan(out_of_tune(quiet.continuity(), quiet, RISING)).all()
