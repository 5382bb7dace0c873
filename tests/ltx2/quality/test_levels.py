"""Steps and drift of brightness, colour and contrast, segments of one colour, and pictures without shapes."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from ltx2.quality.continuity import Continuity, broken, continuity, not_kept, of_one_colour
from ltx2.quality.levels import levels_of, shows_one_colour
from ltx2.timeline import SegmentShape, SegmentTiming, film_frames, film_samples, plan

FPS, RATE = 24, 16_000
HEIGHT, WIDTH = 64, 96
SEGMENTS = 6
Picture = NDArray[np.float64]


def timings(segments: int = SEGMENTS, cuts: tuple[int, ...] = ()) -> list[SegmentTiming]:
    return plan(SegmentShape(25, Fraction(FPS)), [index in cuts for index in range(segments)])


def measured(film: Picture, segments: list[SegmentTiming]) -> Continuity:
    """film: levels `[T, H, W, 3]`, which are rounded and limited to 0..255."""
    frames = film.round().clip(0, 255).astype(np.uint8)
    silence = np.zeros((1, film_samples(len(frames), Fraction(FPS), RATE)), np.float32)
    return continuity(np.split(frames, [timing.first_frame for timing in segments[1:]]), silence, RATE, segments)


def faults(film: Picture, segments: list[SegmentTiming]) -> list[str]:
    found = measured(film, segments)
    return broken(found.seams) + not_kept(found) + of_one_colour(found)


def texture(frames: int, *, block: int = 2, pace: int = 1, low: int = 40, high: int = 139) -> Picture:
    """Random blocks in every channel that move to the left."""
    width = WIDTH + pace * frames
    noise = np.random.default_rng(7).integers(low, high + 1, (HEIGHT // block, -(-width // block), 3))
    wide = noise.repeat(block, 0).repeat(block, 1).astype(np.float64)
    return np.stack([wide[:, pace * index : pace * index + WIDTH] for index in range(frames)])


def segment_of_frame(segments: list[SegmentTiming]) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(segments)), [timing.new_frames for timing in segments])


def per_frame(values: NDArray[np.float64] | NDArray[np.int64]) -> Picture:
    return np.asarray(values, np.float64)[:, None, None, None]


@pytest.mark.parametrize(("block", "pace"), [(1, 1), (2, 1), (2, 3), (8, 2)])
@pytest.mark.parametrize(("low", "high"), [(40, 139), (0, 255), (100, 120)])
def test_moving_noise_has_neither_shapes_nor_faults(block: int, pace: int, low: int, high: int) -> None:
    # Given
    segments = timings()
    film = texture(film_frames(segments), block=block, pace=pace, low=low, high=high)
    # When / Then
    found = measured(film, segments)
    assert not any(seam.shapes or seam.new_shapes for seam in found.seams)
    assert faults(film, segments) == []


@pytest.mark.parametrize("change", [(14, 14, 14), (-6, -6, -6), (8, 0, -8), (0, 10, 0)])
def test_steps_of_level_and_colour_at_joins_are_reported(change: tuple[int, int, int]) -> None:
    # Given a moving texture whose level changes at each join
    segments = timings()
    steps = segment_of_frame(segments)[:, None, None, None] * np.array(change, np.float64)
    film = texture(film_frames(segments), low=87, high=127) + steps
    # When
    wrong = [text for text in faults(film, segments) if "the picture changes" not in text]
    # Then each join is reported with its step in each channel
    for segment, text in enumerate(wrong, 1):
        where, _, numbers = text.partition(": the brightness steps by ")
        assert where == f"segment {segment}"
        assert [float(one) for one in numbers.split(" (")[0].split(", ")] == pytest.approx(change, abs=0.3)
    assert len(wrong) == SEGMENTS - 1


def test_steps_of_contrast_are_reported() -> None:
    # Given a texture whose contrast falls at each join, and whose level stays
    segments = timings()
    film = 128 + (texture(film_frames(segments)) - 89.5) * per_frame(0.75 ** segment_of_frame(segments))
    # When
    wrong = faults(film, segments)
    # Then
    assert "the contrast steps by -7" in wrong[0]
    assert all("contrast" in text for text in wrong)


def test_small_steps_that_add_up_are_reported_at_the_end() -> None:
    # Given steps that are too small for any single join, in two parts with a cut between them
    segments = timings(12, cuts=(6,))
    film = texture(film_frames(segments)) + per_frame(3 * segment_of_frame(segments))
    # When / Then
    first, second = faults(film, segments)
    assert first.startswith("segment 5: the brightness has drifted by +1")
    assert first.endswith("at 5 joins, compared with segment 0")
    assert second.endswith("at 5 joins, compared with segment 6")


def test_fades_pans_and_flashes_are_within_bounds() -> None:
    # Given a moving texture
    segments = timings()
    count = film_frames(segments)
    plain, time = texture(count, block=8, pace=3), np.arange(count)
    joins = [timing.first_frame for timing in segments[1:]]
    flashes = np.isin(time, [join + 7 for join in joins]) | np.isin(time, [join + 8 for join in joins[::2]])
    # When it fades in over the whole film, fades out within one segment, gets lighter around a join, or flashes
    films = [
        plain * per_frame(time / count),
        plain * per_frame(np.clip((joins[3] - 2 - time) / 12, 0, 1)),
        plain * per_frame(np.clip((time - joins[2]) / 14, 0, 1)),
        plain + per_frame(60 / (1 + np.exp((joins[2] - time) / 4))),
        plain + per_frame(120 * flashes),
    ]
    # Then
    for film in films:
        assert faults(film, segments) == []


@pytest.mark.parametrize("level", [0, 255, 128])
@pytest.mark.parametrize("flat", [[2], [0], [5], [2, 3]])
@pytest.mark.parametrize("cuts", [(), (2, 3)])
def test_segments_of_one_colour_are_reported(level: int, flat: list[int], cuts: tuple[int, ...]) -> None:
    # Given
    segments = timings(cuts=cuts)
    film = texture(film_frames(segments))
    film[np.isin(segment_of_frame(segments), flat)] = level
    # When / Then
    wrong = of_one_colour(measured(film, segments))
    colour = f"(red {level}, green {level}, blue {level})"
    assert wrong == [
        f"segment {index}: all of it has one colour {colour}, unlike the pictures around it" for index in flat
    ]


def test_a_film_of_one_colour_is_not_reported() -> None:
    segments = timings()
    assert faults(np.full((film_frames(segments), HEIGHT, WIDTH, 3), 20.0), segments) == []


def test_levels_are_exact() -> None:
    # Given
    frames = np.random.default_rng(0).integers(0, 256, (2, 33, 50, 3), np.uint8)
    # When
    levels, spreads = levels_of(frames)
    # Then
    assert levels == pytest.approx(frames.mean((1, 2)))
    assert spreads == pytest.approx(frames.std((1, 2)))
    assert not shows_one_colour(list(frames))
    assert shows_one_colour([np.full((8, 8, 3), 255, np.uint8)])
