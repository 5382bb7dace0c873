"""Measuring continuity: a continuous film has no broken joins, and every fault is reported at its join."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from ltx2.quality.audio_metrics import SoundAtSeam
from ltx2.quality.continuity import Continuity, Seam, broken, continuity, not_kept
from ltx2.quality.levels import LevelStep
from ltx2.timeline import SegmentShape, SegmentTiming, continued_timing, film_frames, film_samples, plan, sound_spans
from training.world import FPS, SOUNDS, Shape, World, draw

RATE = 16_000
SEGMENTS = 8
JOIN = 3  # the segment that begins with a fault
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


def measured(made: Film, segments: list[SegmentTiming] | None = None) -> Continuity:
    frames, sound = made
    segments = segments or timings()
    return continuity(np.split(frames, [timing.first_frame for timing in segments[1:]]), sound, RATE, segments)


def join_sample() -> int:
    """The film sample at which the sound of segment JOIN begins."""
    return sound_spans(timings(), RATE)[JOIN].film_start


def joined(first: Film, then: Film) -> Film:
    """`first` up to segment JOIN, then `then`."""
    frame, sample = timings()[JOIN].first_frame, join_sample()
    return (
        np.concatenate([first[0][:frame], then[0][frame:]]),
        np.concatenate([first[1][:, :sample], then[1][:, sample:]], axis=1),
    )


def wrong_at_join(made: Film) -> list[str]:
    """What is reported at segment JOIN; check that nothing is reported elsewhere."""
    found = broken(measured(made).seams)
    assert all(text.startswith(f"segment {JOIN}: ") for text in found), found
    return [text.partition(": ")[2] for text in found]


@pytest.mark.parametrize("world", [ONE, TWO], ids=["one shape", "two shapes"])
@pytest.mark.parametrize("start", [0.0, 1.7, 4.4, 9.1])
def test_a_continuous_film_has_no_broken_joins(world: World, start: float) -> None:
    # Given
    made = film(world, start)
    # When
    found = measured(made)
    # Then
    assert broken(found.seams) == []
    assert not_kept(found) == []
    assert [seam.segment for seam in found.seams] == list(range(1, SEGMENTS))
    assert {len(seam.shapes) for seam in found.seams} == {len(world.shapes)}
    for seam in found.seams:
        assert seam.change < 2 * seam.usual_change + 0.5
        assert abs(seam.sound.loudness_step) < 1


@pytest.mark.parametrize("seed", range(6))
def test_a_random_continuous_film_has_no_broken_joins(seed: int) -> None:
    # When a film is measured in which shapes may hide each other
    found = measured(film(draw(np.random.default_rng(seed))[0]))
    # Then
    assert broken(found.seams) == []
    assert not_kept(found) == []


def test_a_jump_is_reported() -> None:
    moved = replace(ONE, shapes=(replace(ONE.shapes[0], x=ONE.shapes[0].x - 9),))
    assert any("jumps" in text for text in wrong_at_join(joined(film(ONE), film(moved))))


def test_reversed_motion_is_reported() -> None:
    # Given a film that runs backwards from segment JOIN on, as if its conditioning frames were reversed
    frames, sound = film(ONE)
    frame = timings()[JOIN].first_frame
    back = np.concatenate([frames[:frame], frames[:frame][::-1], frames])[: len(frames)]
    # When
    found = measured((back, sound)).seams
    # Then
    assert any("turns" in text for text in broken([seam for seam in found if seam.segment == JOIN]))


def test_a_bounce_off_a_wall_is_not_a_turn() -> None:
    # Given a circle that reaches the right wall at the join
    frame = timings()[JOIN].first_frame
    shape = Shape("circle", "red", "right", "", 16, 48, 192 - 16 - 48 * frame / FPS + 96, 64)
    bouncing = World((replace(shape, x=shape.x - 96),), "blue", "silence")
    # When
    x, _ = bouncing.shapes[0].centre(np.arange(200) / FPS)
    found = measured(film(bouncing)).seams
    # Then
    assert abs(int(x.argmax()) - frame) <= 1
    assert broken(found) == []


def test_another_world_is_reported() -> None:
    wrong = wrong_at_join(joined(film(ONE), film(TWO)))
    assert "shape 1 is gone" in wrong
    assert "2 shapes appear" in wrong
    assert any(text.startswith("the picture changes by") for text in wrong)
    assert any(text.startswith("the pitch steps by") for text in wrong)


def test_another_background_is_reported() -> None:
    picture, brightness, *_ = wrong_at_join(joined(film(ONE), film(replace(ONE, background="green"))))
    assert picture.startswith("the picture changes by")
    assert brightness.startswith("the brightness steps by")


@pytest.mark.parametrize(("way", "reported"), [("right", False), ("down and right", True), ("down and left", True)])
def test_a_shape_that_turns_by_more_than_60_degrees_is_reported(way: str, reported: bool) -> None:
    # Given a shape that continues from its position in another direction
    then = timings()[JOIN].first_frame / FPS
    shape = Shape("circle", "red", "up and right", "slowly", 16, 24, 50, 110)
    x, y = (float(place[0]) for place in shape.centre(np.array([then])))
    turned = replace(shape, way=way, x=x, y=y)
    frames, sound = film(replace(ONE, shapes=(shape,)))
    later = replace(ONE, shapes=(turned,)).frames(0, len(frames))
    # When
    wrong = wrong_at_join(
        joined((frames, sound), (np.concatenate([frames[: round(then * FPS)], later])[: len(frames)], sound))
    )
    # Then
    assert wrong == (["shape 1 turns or stops"] if reported else [])


def test_a_shape_that_stops_is_reported() -> None:
    frames, sound = film(ONE)
    at = timings()[JOIN].first_frame
    still = np.concatenate([frames[:at], np.repeat(frames[at : at + 1], len(frames) - at, axis=0)])
    assert wrong_at_join((still, sound)) == ["shape 1 turns or stops"]


def test_a_shape_that_appears_or_disappears_is_reported() -> None:
    alone = replace(TWO, shapes=TWO.shapes[:1])
    assert "a shape appears" in wrong_at_join(joined(film(alone), film(TWO)))
    assert "shape 2 is gone" in wrong_at_join(joined(film(TWO), film(alone)))


def test_a_shape_that_hides_behind_another_is_not_gone() -> None:
    # Given a white circle that a black one hides during segment JOIN only
    middle = (timings()[JOIN].first_frame + 8) / FPS
    front = Shape("circle", "black", "right", "slowly", 20, 24, 30, 64)
    behind = Shape("circle", "white", "right", "slowly", 12, 12, 30 + 12 * middle, 64)
    # When
    found = measured(film(World((front, behind), "cyan", "silence")))
    # Then
    counts = [len(segment.tracks) for segment in found.segments]
    assert (counts[0], counts[JOIN], counts[-1]) == (2, 1, 2)
    assert broken(found.seams) == []
    assert not_kept(found) == []


def test_another_colour_is_reported() -> None:
    paler = film(ONE)[0].astype(np.int16)
    shape = (paler[..., 0] > 130)[..., None]
    paler = np.where(shape, np.clip(paler + np.array([0, 60, 30]), 0, 255), paler).astype(np.uint8)
    wrong = wrong_at_join(joined(film(ONE), (paler, film(ONE)[1])))
    assert any("changes its colour by 6" in text for text in wrong), wrong


def test_a_colour_that_drifts_at_every_join_is_not_kept() -> None:
    # Given
    frames, sound = film(ONE)
    drifting = frames.astype(np.int16)
    shape = (drifting[..., 0] > 130)[..., None]
    for timing in timings():
        drifting[timing.first_frame :] += (shape * np.array([0, 10, 4]))[timing.first_frame :].astype(np.int16)
    # When
    found = measured((np.clip(drifting, 0, 255).astype(np.uint8), sound))
    # Then
    assert broken(found.seams) == []
    assert not_kept(found) == ["segment 7: shape 1 changes its colour by 75, compared with segment 0"]


def test_shapes_are_compared_with_the_first_segment_after_a_cut() -> None:
    # Given three segments of one world, and five of another whose shapes disappear at the end
    cut = timings(cut=JOIN)
    count, at = film_frames(cut), cut[JOIN].first_frame
    silence = np.zeros((2, film_samples(count, Fraction(FPS), RATE)), np.float32)
    made = np.concatenate([ONE.frames(0, count)[:at], TWO.frames(0, count)[at:]])
    gone = np.concatenate([made[:-16], np.broadcast_to(made[0, 0, 0], made[-16:].shape)])
    # When / Then
    assert not_kept(measured((made, silence), cut)) == []
    assert not_kept(measured((gone.astype(np.uint8), silence), cut)) == [
        "segment 7: shape 1 is gone, compared with segment 3",
        "segment 7: shape 2 is gone, compared with segment 3",
    ]


def test_another_kind_of_shape_is_reported() -> None:
    square = replace(ONE, shapes=(replace(ONE.shapes[0], kind="square"),))
    assert wrong_at_join(joined(film(ONE), film(square))) == ["shape 1 changes from circle to square"]


def test_sound_half_a_second_late_is_reported_by_its_pitch() -> None:
    wrong = wrong_at_join(joined(film(ONE), film(ONE, sound_later=0.5)))
    assert any("the pitch steps by" in text for text in wrong), wrong


def test_a_click_is_reported() -> None:
    # Given
    frames, sound = film(ONE)
    sound[0, join_sample()] += 0.3
    # When / Then
    (wrong,) = wrong_at_join((frames, sound))
    assert "the sound clicks: a step of 0.3" in wrong


@pytest.mark.parametrize("step", [-2, 2])
def test_a_wrong_pitch_is_reported(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given
    right = film(ONE)
    monkeypatch.setitem(SOUNDS, "low hum", 300 * 2 ** (step / 12))
    # When
    wrong = wrong_at_join(joined(right, film(ONE)))
    # Then
    (heard,) = (text for text in wrong if text.startswith("the pitch steps by"))
    assert float(heard.split()[4]) == pytest.approx(step, abs=0.6)  # the pitch also glides


def test_a_tone_that_stops_or_starts_is_reported() -> None:
    # Given
    frames, sound = film(ONE)
    # When
    falls = wrong_at_join(joined((frames, sound), (frames, 0 * sound)))
    rises = wrong_at_join(joined((frames, 0 * sound), (frames, sound)))
    # Then
    assert any(text.startswith("the loudness steps by -") for text in falls)
    assert "the tone is gone" in falls
    assert any(text.startswith("the loudness steps by +") for text in rises)
    assert "a tone appears" in rises


def test_noise_in_place_of_a_tone_is_reported() -> None:
    frames, sound = film(ONE)
    noise = np.random.default_rng(0).normal(0, 0.28, sound.shape).astype(np.float32)
    assert "the tone is gone" in wrong_at_join(joined((frames, sound), (frames, noise)))


def test_frames_without_shapes_are_judged_by_their_change() -> None:
    # Given slightly flickering noise, and different noise from segment JOIN on
    rng, at = np.random.default_rng(0), timings()[JOIN].first_frame
    one, other = rng.integers(0, 240, (2, 64, 96, 3))
    still = np.stack([one if index < at else other for index in range(film_frames(timings()))])
    frames = (still + rng.integers(0, 15, still.shape)).astype(np.uint8)
    silence = np.zeros((2, film_samples(len(frames), Fraction(FPS), RATE)), np.float32)
    # When / Then
    (wrong,) = wrong_at_join((frames, silence))
    assert wrong.startswith("the picture changes by 80")
    assert wrong.endswith(", elsewhere by at most 5.0")


def test_a_cut_is_not_judged() -> None:
    # Given
    cut = timings(cut=JOIN)
    frames = film_frames(cut)
    first, then = ONE.frames(0, frames), TWO.frames(0, frames)
    made = np.concatenate([first[: cut[JOIN].first_frame], then[cut[JOIN].first_frame :]])
    # When
    found = measured((made, np.zeros((2, film_samples(frames, Fraction(FPS), RATE)), np.float32)), cut).seams
    # Then
    assert [seam.cut for seam in found] == [index == JOIN for index in range(1, SEGMENTS)]
    assert broken(found) == []
    assert found[JOIN - 1].shapes[0].is_lost


def frames_of(value: str) -> NDArray[np.uint8]:
    count, rng = film_frames(timings()), np.random.default_rng(0)
    if value == "noise":
        return rng.integers(0, 255, (count, 64, 96, 3), np.uint8)
    if value == "black":
        return np.zeros((count, 64, 96, 3), np.uint8)
    many = np.zeros((count, 64, 96, 3), np.uint8)
    many[:, ::2, ::3] = rng.integers(0, 255, (count, 32, 32, 3), np.uint8)
    return many


@pytest.mark.parametrize("value", ["noise", "black", "many colours"])
def test_frames_without_shapes_have_all_other_measurements(value: str) -> None:
    # Given
    frames = frames_of(value)
    silence = np.zeros((2, film_samples(len(frames), Fraction(FPS), RATE)), np.float32)
    # When
    found = measured((frames, silence)).seams
    # Then
    assert all(not seam.shapes for seam in found)
    assert all(
        np.isfinite([seam.change, seam.usual_change, seam.sound.loudness_step, seam.sound.click]).all()
        for seam in found
    )
    assert broken(found) == []


def test_a_film_of_one_segment_has_no_joins() -> None:
    alone = timings()[:1]
    sound = ONE.samples(0, film_samples(25, Fraction(FPS), RATE), RATE)
    assert measured((ONE.frames(0, 25), sound), alone).seams == []


def test_segments_of_a_film_that_continues_a_state_are_counted_from_0() -> None:
    # Given a film that continues from segment 4 of another
    shape = SegmentShape(25, Fraction(FPS))
    start = continued_timing(shape, pinned=17, offset=shape.prefix_seconds, index=5, first_frame=0)
    segments = plan(shape, [False] * 3, start=start)
    sound = ONE.samples(0, film_samples(48, Fraction(FPS), RATE), RATE)
    # When
    found = measured((ONE.frames(0, 48), sound), segments)
    # Then
    assert [(one.segment, one.first_frame) for one in found.segments] == [(0, 0), (1, 16), (2, 32)]
    assert [(seam.segment, seam.frame) for seam in found.seams] == [(1, 16), (2, 32)]
    assert broken(found.seams) == []


def test_a_film_that_does_not_match_its_timings_is_rejected() -> None:
    frames, sound = film(ONE)
    with pytest.raises(ValueError, match=r"15 frames of segment 7; it must have 16"):
        measured((frames[:-1], sound))
    with pytest.raises(ValueError, match=r"91332 samples of sound; these segments must have 91333"):
        measured((frames, sound[:, 1:]))


def seam_with(**changes: float) -> Seam:
    """A join without any change but `changes` in its sound."""
    names = ("loudness_step", "usual_loudness_step", "pitch_step", "click", "usual_click")
    sound = SoundAtSeam(tones=(0.5, 0.5), **dict.fromkeys(names, 0.0) | changes)
    none = LevelStep((0, 0, 0), (0, 0, 0), (0, 0, 0))
    return Seam(1, 25, False, 0, 0, 0, levels=none, contrast=none, shapes=(), new_shapes=0, sound=sound)


def test_bounds_of_sound() -> None:
    assert broken([seam_with(click=0.025, usual_click=0.01, pitch_step=-1.0)]) == []
    assert "the sound clicks" in broken([seam_with(click=0.026, usual_click=0.01)])[0]
    assert "-1.1 semitones" in broken([seam_with(pitch_step=-1.1)])[0]
    assert broken([seam_with(pitch_step=float("nan"), loudness_step=float("nan"))]) == []
    assert broken([seam_with(loudness_step=-6.0, usual_loudness_step=2.0)]) == []
    assert "-6.1 dB, elsewhere by at most 2.0 dB" in broken([seam_with(loudness_step=-6.1, usual_loudness_step=2.0)])[0]
    # at most 1.5 times the usual step plus 3 dB, and at most 4 dB above the usual step
    for usual, most in ((0.0, 3.0), (10.0, 14.0)):
        assert broken([seam_with(loudness_step=most, usual_loudness_step=usual)]) == []
        assert broken([seam_with(loudness_step=most + 0.1, usual_loudness_step=usual)]) != []


def test_the_bound_of_the_change_between_frames() -> None:
    assert broken([replace(seam_with(), change=4.0, largest_change=2.0)]) == []
    assert broken([replace(seam_with(), change=4.1, largest_change=2.0)]) == [
        "segment 1: the picture changes by 4.1, elsewhere by at most 2.0"
    ]
