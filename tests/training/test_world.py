"""Worlds: frames and sound that are a function of time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training import world
from training.world import FPS, HEIGHT, WIDTH, Shape, World, draw

seeds = st.integers(0, 2**32)
moments = st.floats(0, 60)
RATE = 16_000


def scene(seed: int) -> World:
    return draw(np.random.default_rng(seed))[0]


def crossing(sound: str = "low hum") -> World:
    """A circle that crosses the picture from left to right."""
    return World((Shape("circle", "red", "right", "", 16, 48, 16, 64),), "blue", sound)


@settings(max_examples=20)
@given(seeds, st.integers(0, 200))
def test_frames_from_a_later_start_are_the_rest_of_a_longer_clip(seed: int, frame: int) -> None:
    # Given
    whole = scene(seed)
    # When
    rest = whole.frames(frame / FPS, 3)
    # Then
    assert np.array_equal(whole.frames(0, frame + 3)[frame:], rest)


@settings(max_examples=20)
@given(seeds, st.integers(0, 3 * RATE))
def test_sound_from_a_later_start_is_the_rest_of_a_longer_clip(seed: int, sample: int) -> None:
    whole = scene(seed)
    rest = whole.samples(sample / RATE, 400, RATE)
    assert np.abs(whole.samples(0, sample + 400, RATE)[:, sample:] - rest).max() < 1e-3


@given(seeds, moments)
def test_shapes_stay_in_the_frame_and_keep_their_speed(seed: int, moment: float) -> None:
    for shape in scene(seed).shapes:
        x, y = shape.centre(moment + np.arange(25) / FPS)
        assert x.min() >= shape.radius - 1e-6
        assert x.max() <= WIDTH - shape.radius + 1e-6
        assert y.min() >= shape.radius - 1e-6
        assert y.max() <= HEIGHT - shape.radius + 1e-6
        ways = world.DIRECTIONS[shape.way]
        for places, way in zip((x, y), ways, strict=True):
            # a step with a bounce is shorter
            assert np.abs(np.diff(places)).max() <= abs(way) * shape.speed / FPS + 1e-6
            assert np.median(np.abs(np.diff(places))) == pytest.approx(abs(way) * shape.speed / FPS, abs=1e-6)


def test_a_shape_starts_in_the_direction_of_its_prompt_and_bounces() -> None:
    # Given
    shape = crossing().shapes[0]
    # When
    x, _ = shape.centre(np.array([0.0, 1.0, (WIDTH - 32) / 48, (WIDTH - 32) / 48 + 1]))
    # Then
    assert x == pytest.approx([16, 64, WIDTH - 16, WIDTH - 16 - 48])


@pytest.mark.parametrize(("kind", "part"), [("circle", np.pi), ("square", 3.14), ("triangle", 2.0)])
def test_a_shape_is_drawn_in_its_colour_at_its_position(kind: str, part: float) -> None:
    # Given
    shape = Shape(kind, "yellow", "left", "", 16, 40, 96.3, 60.7)
    # When
    (frame,) = World((shape,), "black", "silence").frames(0, 1).astype(np.float64)
    # Then
    cover = (frame[..., 0] - world.COLOURS["black"][0]) / (world.COLOURS["yellow"][0] - world.COLOURS["black"][0])
    assert cover.sum() == pytest.approx(part * 16**2, rel=0.02)
    assert (cover.sum(0) * (np.arange(WIDTH) + 0.5)).sum() / cover.sum() == pytest.approx(96.3, abs=0.05)
    assert tuple(frame[60, 96]) == world.COLOURS["yellow"]
    assert tuple(frame[5, 5]) == world.COLOURS["black"]


def test_the_first_shape_is_in_front() -> None:
    both = (Shape("circle", "red", "left", "", 16, 40, 96, 64), Shape("circle", "white", "left", "", 16, 40, 104, 64))
    (frame,) = World(both, "black", "silence").frames(0, 1)
    assert tuple(frame[64, 100]) == world.COLOURS["red"]
    assert tuple(frame[64, 116]) == world.COLOURS["white"]


def test_pitch_follows_height_over_an_octave_and_pan_follows_the_side() -> None:
    # Given a circle at the left wall, and a higher one at the right wall
    low = World((Shape("circle", "red", "up", "", 16, 40, 16, 112),), "blue", "low hum")
    high = World((Shape("circle", "red", "up", "", 16, 40, 176, 16),), "blue", "low hum")
    # When
    at_start = np.zeros(1)
    (left_of_low,), (right_of_low,) = low.gains(at_start)
    (left_of_high,), (right_of_high,) = high.gains(at_start)
    # Then
    assert low.pitch(at_start) == pytest.approx(300 * 2 ** (16 / 128))
    assert high.pitch(at_start) == pytest.approx(300 * 2 ** (112 / 128))
    assert left_of_low > 5 * right_of_low
    assert right_of_high > 5 * left_of_high
    assert np.hypot(left_of_low, right_of_low) == pytest.approx(np.hypot(left_of_high, right_of_high))


def test_the_sound_has_the_reported_pitch() -> None:
    # Given
    still = crossing("high hum")
    # When
    samples = still.samples(0, RATE, RATE)
    # Then
    found = np.abs(np.fft.rfft(samples.sum(0))).argmax()  # hertz, for one second of sound
    assert found == pytest.approx(still.pitch(np.zeros(1))[0], abs=1)
    assert np.abs(samples).max() <= world.LOUDNESS


def test_silence_is_silent() -> None:
    assert not crossing("silence").samples(0, RATE, RATE).any()
    assert not crossing("silence").pitch(np.zeros(3)).any()


def test_a_prompt_describes_what_is_drawn() -> None:
    two = (*crossing().shapes, Shape("square", "green", "up and left", "slowly", 14, 30, 90, 90))
    assert World(two, "blue", "low hum").prompt == (
        "a red circle moves right and a green square moves slowly up and left over a blue background, low hum"
    )


@given(seeds)
def test_the_lots_determine_what_a_prompt_leaves_open(seed: int) -> None:
    # Given
    drawn, lots = draw(np.random.default_rng(seed))
    # When
    again = [
        world.settle(shape.kind, shape.colour, shape.way, shape.pace, lots[4 * i : 4 * i + 4])
        for i, shape in enumerate(drawn.shapes)
    ]
    # Then
    assert tuple(again) == drawn.shapes
    assert len({drawn.background, *(shape.colour for shape in drawn.shapes)}) == 1 + len(drawn.shapes)


@given(seeds)
def test_the_same_seed_draws_the_same_world(seed: int) -> None:
    assert scene(seed) == scene(seed)
