"""Seams: films that truly go on have none; each way in which one can break is caught by the figure that it breaks."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from ltx2.listening import largest_step, loudness, pitch, semitones
from ltx2.seams import Seam, broken, continuity
from ltx2.timeline import SegmentShape, SegmentTiming, film_frames, film_samples, plan, sound_spans
from ltx2.tracking import track
from training.world import FPS, Shape, World, draw

RATE = 16_000
SEGMENTS = 8
JOIN = 3  # the segment before which films are broken
ONE = World((Shape("circle", "red", "up and right", "", 16, 44, 70, 90),), "blue", "low hum")
TWO = World(
    (Shape("square", "white", "left", "", 15, 50, 150, 30), Shape("triangle", "black", "right", "", 18, 40, 40, 95)),
    "green",
    "high hum",
)

Film = tuple[NDArray[np.uint8], NDArray[np.float32]]


def timings(*, cut: int | None = None) -> list[SegmentTiming]:
    return plan(SegmentShape(25, Fraction(FPS)), [index == cut for index in range(SEGMENTS)])


def film(world: World, start: float = 0, *, sound_later: float = 0) -> Film:
    frames = film_frames(timings())
    sound = world.samples(start + sound_later, film_samples(frames, Fraction(FPS), RATE), RATE)
    return world.frames(start, frames), sound


def seams(frames: NDArray[np.uint8], sound: NDArray[np.float32], rate: int, of: list[SegmentTiming]) -> list[Seam]:
    pieces = np.split(frames, [timing.first_frame for timing in of[1:]])
    return continuity(pieces, sound, rate, of).seams


def changeover() -> int:
    """The film sample at which the sound of segment JOIN begins."""
    return sound_spans(timings(), RATE)[JOIN].film_start


def joined(first: Film, then: Film) -> Film:
    """`first` up to segment JOIN, then what `then` has there."""
    frame, sample = timings()[JOIN].first_frame, changeover()
    return (
        np.concatenate([first[0][:frame], then[0][frame:]]),
        np.concatenate([first[1][:, :sample], then[1][:, sample:]], axis=1),
    )


def wrong_at_join(made: Film) -> list[str]:
    """What is wrong before segment JOIN; nowhere else may there be anything."""
    found = broken(seams(*made, RATE, timings()))
    assert all(text.startswith(f"segment {JOIN}: ") for text in found), found
    return [text.partition(": ")[2] for text in found]


@pytest.mark.parametrize("world", [ONE, TWO], ids=["one shape", "two shapes"])
@pytest.mark.parametrize("start", [0.0, 1.7, 4.4, 9.1])
def test_a_true_film_has_no_seams(world: World, start: float) -> None:
    # Given
    made = film(world, start)
    # When
    found = seams(*made, RATE, timings())
    # Then
    assert broken(found) == []
    assert [seam.segment for seam in found] == list(range(1, SEGMENTS))
    assert {len(seam.shapes) for seam in found} == {len(world.shapes)}
    for seam in found:
        assert seam.change < 2 * seam.usual_change + 0.5
        assert abs(seam.loudness_step) < 1


def test_random_true_films_have_hardly_any() -> None:
    # Given films in which shapes may hide each other
    films = [film(draw(np.random.default_rng(seed))[0]) for seed in range(6)]
    # When
    wrong = [text for made in films for text in broken(seams(*made, RATE, timings()))]
    # Then
    assert len(wrong) <= 1, wrong  # of 42 joins


def test_a_jump_is_caught() -> None:
    moved = replace(ONE, shapes=(replace(ONE.shapes[0], x=ONE.shapes[0].x - 9),))
    assert any("jumps" in text for text in wrong_at_join(joined(film(ONE), film(moved))))


def test_motion_that_turns_round_is_caught() -> None:
    # Given a film whose next segment goes back the way it came, as if its conditioning frames were reversed
    frames, sound = film(ONE)
    frame = timings()[JOIN].first_frame
    back = np.concatenate([frames[:frame], frames[:frame][::-1], frames])[: len(frames)]
    # When
    found = seams(back, sound, RATE, timings())
    # Then
    assert any("turns" in text for text in broken([seam for seam in found if seam.segment == JOIN]))


def test_a_bounce_off_a_wall_is_no_turn() -> None:
    # Given a circle that meets the right wall at the join
    frame = timings()[JOIN].first_frame
    shape = Shape("circle", "red", "right", "", 16, 48, 192 - 16 - 48 * frame / FPS + 96, 64)
    bouncing = World((replace(shape, x=shape.x - 96),), "blue", "silence")
    # When
    x, _ = bouncing.shapes[0].centre(np.arange(200) / FPS)
    found = seams(*film(bouncing), RATE, timings())
    # Then
    assert abs(int(x.argmax()) - frame) <= 1
    assert broken(found) == []


def test_another_world_is_caught() -> None:
    wrong = wrong_at_join(joined(film(ONE), film(TWO)))
    assert "shape 1 is gone" in wrong


def test_another_colour_is_caught() -> None:
    paler = film(ONE)[0].astype(np.int16)
    shape = (paler[..., 0] > 130)[..., None]
    paler = np.where(shape, np.clip(paler + np.array([0, 60, 30]), 0, 255), paler).astype(np.uint8)
    wrong = wrong_at_join(joined(film(ONE), (paler, film(ONE)[1])))
    assert any("changes its colour by 6" in text for text in wrong), wrong


def test_another_kind_is_caught() -> None:
    square = replace(ONE, shapes=(replace(ONE.shapes[0], kind="square"),))
    assert wrong_at_join(joined(film(ONE), film(square))) == ["shape 1 was a circle and is a square"]


def test_sound_half_a_second_late_is_caught_by_its_pitch() -> None:
    wrong = wrong_at_join(joined(film(ONE), film(ONE, sound_later=0.5)))
    assert any("the pitch steps by" in text for text in wrong), wrong


def test_a_click_is_caught() -> None:
    # Given
    frames, sound = film(ONE)
    # When
    sound[0, changeover()] += 0.3
    # Then
    (wrong,) = wrong_at_join((frames, sound))
    assert "the sound clicks: a step of 0.3" in wrong


def test_a_cut_is_not_judged() -> None:
    # Given
    cut = timings(cut=JOIN)
    frames = film_frames(cut)
    first, then = ONE.frames(0, frames), TWO.frames(0, frames)
    made = np.concatenate([first[: cut[JOIN].first_frame], then[cut[JOIN].first_frame :]])
    # When
    found = seams(made, np.zeros((2, film_samples(frames, Fraction(FPS), RATE)), np.float32), RATE, cut)
    # Then
    assert [seam.cut for seam in found] == [index == JOIN for index in range(1, SEGMENTS)]
    assert broken(found) == []
    assert found[JOIN - 1].shapes[0].is_lost


def made_of(value: str) -> NDArray[np.uint8]:
    count, rng = film_frames(timings()), np.random.default_rng(0)
    if value == "noise":
        return rng.integers(0, 255, (count, 64, 96, 3), np.uint8)
    if value == "black":
        return np.zeros((count, 64, 96, 3), np.uint8)
    many = np.zeros((count, 64, 96, 3), np.uint8)
    many[:, ::2, ::3] = rng.integers(0, 255, (count, 32, 32, 3), np.uint8)
    return many


@pytest.mark.parametrize("value", ["noise", "black", "many colours"])
def test_pictures_that_are_no_simple_world_have_no_shapes_and_all_else(value: str) -> None:
    # Given
    frames = made_of(value)
    silence = np.zeros((2, film_samples(len(frames), Fraction(FPS), RATE)), np.float32)
    # When
    found = seams(frames, silence, RATE, timings())
    # Then
    assert all(not seam.shapes for seam in found)
    assert all(np.isfinite([seam.change, seam.usual_change, seam.loudness_step, seam.click]).all() for seam in found)
    assert broken(found) == []


def test_a_film_of_one_segment_has_no_seams() -> None:
    alone = timings()[:1]
    sound = ONE.samples(0, film_samples(25, Fraction(FPS), RATE), RATE)
    assert seams(ONE.frames(0, 25), sound, RATE, alone) == []


def test_a_film_that_is_not_these_segments_is_refused() -> None:
    frames, sound = film(ONE)
    with pytest.raises(ValueError, match=r"15 frames of segment 7; it has 16"):
        seams(frames[:-1], sound, RATE, timings())
    with pytest.raises(ValueError, match=r"91332 samples of sound; these segments have 91333"):
        seams(frames, sound[:, 1:], RATE, timings())


@pytest.mark.parametrize("kind", ["circle", "square", "triangle"])
def test_a_shape_is_followed_to_half_a_pixel(kind: str) -> None:
    # Given
    shape = Shape(kind, "yellow", "right", "", 16, 40, 60, 70)
    # When
    (found,) = track(World((shape,), "black", "silence").frames(0, 25))
    # Then
    x, y = shape.centre(np.arange(25) / FPS)
    below = 0.0 if kind != "triangle" else float(np.mean(found.centres[:, 1] - y))
    assert found.kind == kind
    assert np.abs(found.centres[:, 0] - x).max() < 0.5
    assert np.abs(found.centres[:, 1] - y - below).max() < 0.5
    assert abs(below) < 3
    assert found.colour == pytest.approx((240, 208, 60), abs=12)


@pytest.mark.parametrize("frequency", [300.0, 424.0, 1000.0, 1777.0])
def test_pitch_of_a_tone(frequency: float) -> None:
    times = np.arange(1600) / RATE
    tone = 0.3 * np.sin(2 * np.pi * frequency * times)[None].astype(np.float32)
    assert semitones(frequency, pitch(tone, RATE)) == pytest.approx(0, abs=0.1)


def test_pitch_of_a_tone_that_is_a_mixture_of_its_neighbours() -> None:
    times = np.arange(1600) / RATE
    mixture = sum(np.sqrt(part) * np.sin(2 * np.pi * f * times) for f, part in ((400, 0.76), (500, 0.24)))
    assert pitch(0.3 * np.asarray(mixture, np.float32)[None], RATE) == pytest.approx(424, rel=0.01)


def test_silence_and_noise_have_no_pitch() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, (2, 1600)).astype(np.float32)
    assert np.isnan(pitch(np.zeros((2, 1600), np.float32), RATE))
    assert np.isnan(pitch(noise, RATE))
    assert np.isnan(pitch(np.zeros((2, 0), np.float32), RATE))


def test_loudness_and_steps() -> None:
    square = np.tile(np.array([0.5, 0.5, -0.5, -0.5], np.float32), (2, 100))
    assert loudness(square) == pytest.approx(-6.02, abs=0.01)
    assert loudness(square[:, :0]) == -80
    assert loudness(0 * square) == -80
    assert largest_step(square) == 1.0
    assert largest_step(square[:, :1]) == 0.0


def seam(**changes: float) -> Seam:
    quiet = dict.fromkeys(("change", "usual_change", "loudness_step", "pitch_step", "click", "usual_click"), 0.0)
    return Seam(segment=1, frame=25, cut=False, shapes=(), **quiet | changes)


def test_bounds_of_the_sound() -> None:
    assert broken([seam(click=0.025, usual_click=0.01, pitch_step=-1.0)]) == []
    assert "the sound clicks" in broken([seam(click=0.026, usual_click=0.01)])[0]
    assert "-1.1 semitones" in broken([seam(pitch_step=-1.1)])[0]
    assert broken([seam(pitch_step=float("nan"))]) == []
