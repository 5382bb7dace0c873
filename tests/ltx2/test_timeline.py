"""The arithmetic of frames, audio latents and sound samples."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ltx2.errors import TimelineError
from ltx2.timeline import (
    SegmentShape,
    SegmentTiming,
    SoundSpan,
    auto_lengths,
    continued_timing,
    exact,
    film_frames,
    film_samples,
    first_timing,
    latent_frames,
    longest_frames,
    nearest_length,
    next_timing,
    plan,
    round_half_up,
    segment_seed,
    sound_seconds,
    sound_spans,
)

RATES = ["23.976", "24", "25", "29.97", "30", "48", "50", "59.94", "60"]


def test_the_longest_segment_ends_at_the_last_position() -> None:
    for rate, frames in {"24": 481, "23.976": 481, "25": 497, "30": 601, "48": 961, "60": 1201, "1": 17}.items():
        fps = exact(rate)
        assert longest_frames(fps) == frames
        # the middle of the last latent, which stands for 8 frames
        assert (frames - 4) / fps <= 20 < (frames + 8 - 4) / fps


@st.composite
def shapes(draw: st.DrawFn) -> SegmentShape:
    frames = 8 * draw(st.integers(1, 32)) + 1
    overlap = 8 * draw(st.integers(0, min(3, (frames - 9) // 8))) + 1
    return SegmentShape(frames, exact(draw(st.sampled_from(RATES))), overlap)


@st.composite
def films(draw: st.DrawFn, most: int = 60) -> list[SegmentTiming]:
    return plan(draw(shapes()), draw(st.lists(st.booleans(), min_size=1, max_size=most)))


def check_bounds(timings: list[SegmentTiming]) -> None:
    for before, timing in itertools.pairwise([None, *timings]):
        assert timing is not None
        assert timing.offset >= 0
        assert 0 < timing.next_pinned <= timing.audio_latents
        if timing.continued:
            assert abs(timing.offset - timing.shape.prefix_seconds) <= Fraction(2, 100)
            assert before is not None
            assert timing.pinned == before.next_pinned


def check_sound(timings: list[SegmentTiming], spans: list[SoundSpan], rate: int) -> None:
    shape = timings[0].shape
    total = film_samples(film_frames(timings), shape.fps, rate)
    fade = rate // 100
    assert len(spans) == len(timings)
    for timing, span in zip(timings, spans, strict=True):
        length = span.film_end - span.film_start
        # within the film and within the decoded sound
        assert 0 <= span.film_start < span.film_end <= total
        assert span.source_start >= 0
        assert span.source_start + length <= sound_seconds(timing.audio_latents) * rate
        assert span.fade_in + span.fade_out <= length
        # within one rounding of the exact position
        seconds = timing.first_frame / shape.fps - timing.picture_start
        assert abs((span.film_start - span.source_start) - seconds * rate) <= Fraction(1, 2)
    for (_, span), (timing, after) in itertools.pairwise(zip(timings, spans, strict=True)):
        if timing.continued:
            # only the crossfade is in both
            assert span.film_end - after.film_start == span.fade_out == after.fade_in == fade
        else:
            assert 0 <= after.film_start - span.film_end <= Fraction(7, 100) * rate
            assert after.source_start == 0
    for span, _, later in zip(spans, spans[1:], spans[2:], strict=False):
        assert span.film_end <= later.film_start
    assert spans[0].film_start == 0
    assert 0 <= total - spans[-1].film_end <= Fraction(7, 100) * rate


def test_the_numbers_of_the_usual_segment() -> None:
    # Given 121 frames at 24 per second
    shape = SegmentShape(121, Fraction(24))
    # When a thousand of them are planned
    timings = plan(shape, [False] * 1000)
    # Then the numbers are the known ones
    assert shape.prefix_seconds == Fraction(40, 24)
    assert timings[0].audio_latents == 126
    assert {timing.audio_latents for timing in timings[1:]} == {168}
    assert {timing.next_pinned for timing in timings} == {51, 52}
    assert film_frames(timings) == 121 + 112 * 999
    assert timings[0].offset == 0
    assert timings[1].offset == Fraction(5, 3)


def test_the_numbers_of_the_tiny_segment() -> None:
    shape = SegmentShape(25, Fraction(24))
    timings = plan(shape, [False] * 4)
    assert shape.prefix_seconds == Fraction(16, 24)
    assert [timing.audio_latents for timing in timings] == [26, 43, 43, 43]
    assert [timing.pinned for timing in timings] == [0, 26, 26, 27]
    assert [timing.first_frame for timing in timings] == [0, 25, 41, 57]


@pytest.mark.parametrize("fps", RATES)
@pytest.mark.parametrize(("frames", "overlap"), [(9, 1), (17, 9), (25, 9), (33, 25), (121, 9), (257, 1), (257, 25)])
def test_a_thousand_segments_stay_in_bounds(frames: int, overlap: int, fps: str) -> None:
    check_bounds(plan(SegmentShape(frames, exact(fps), overlap), [False] * 1000))


@settings(max_examples=30, deadline=None)
@given(shapes(), st.integers(300, 1000), st.randoms(use_true_random=False))
def test_long_films_with_cuts_stay_in_bounds(shape: SegmentShape, segments: int, random: Random) -> None:
    cuts = [random.random() < 0.2 for _ in range(segments)]
    check_bounds(plan(shape, cuts))


@given(films())
def test_no_frame_is_lost_or_repeated(timings: list[SegmentTiming]) -> None:
    # When the new frames of every segment are placed by its timing
    placed = [timing.first_frame + i for timing in timings for i in range(timing.new_frames)]
    # Then they are the film's frames, each once and in order
    assert placed == list(range(film_frames(timings)))


@given(films())
def test_neighbours_agree_on_time_where_they_overlap(timings: list[SegmentTiming]) -> None:
    for before, timing in itertools.pairwise(timings):
        if timing.continued:
            # Given the shift between the two segments' times at the first pinned latent
            shift = Fraction(before.audio_latents - timing.pinned, 25)
            # Then each repeated frame has the same time in both
            for j in range(timing.skipped_frames):
                tail = before.shape.frames - before.shape.overlap + j
                assert before.offset + tail / before.shape.fps == shift + timing.offset + j / timing.shape.fps


@given(films())
def test_the_offset_survives_conversion_to_float(timings: list[SegmentTiming]) -> None:
    for timing in timings:
        assert exact(float(timing.next_offset)) == timing.next_offset


@given(films(), st.integers(0, 59))
def test_a_resumed_film_continues_as_planned(timings: list[SegmentTiming], at: int) -> None:
    # Given the numbers that a serialised state has after some segment
    before = timings[min(at, len(timings) - 1)]
    pinned, offset = before.next_pinned, float(before.next_offset)
    # When another process continues from it
    first_frame = before.first_frame + before.new_frames
    resumed = continued_timing(
        before.shape, pinned=pinned, offset=exact(offset), index=before.index + 1, first_frame=first_frame
    )
    # Then its timing is that which this process would have planned
    assert resumed == next_timing(before)


@settings(deadline=None)
@given(films(), st.sampled_from([16000, 24000, 44100, 48000]))
def test_sound_spans_cover_the_film(timings: list[SegmentTiming], rate: int) -> None:
    check_sound(timings, sound_spans(timings, rate), rate)


@pytest.mark.parametrize("rate", [22050, 24000, 48000])
@pytest.mark.parametrize("fps", ["23.976", "29.97", "60"])
@pytest.mark.parametrize(("frames", "overlap"), [(9, 1), (25, 9), (121, 9)])
def test_sound_never_drifts_in_a_thousand_segments(frames: int, overlap: int, fps: str, rate: int) -> None:
    timings = plan(SegmentShape(frames, exact(fps), overlap), [False] * 1000)
    spans = sound_spans(timings, rate)
    for timing, span in zip(timings, spans, strict=True):
        exact_place = (timing.first_frame / timing.shape.fps - timing.picture_start) * rate
        assert abs(span.film_start - span.source_start - exact_place) <= Fraction(1, 2)


def test_the_crossfade_is_where_both_decoded_sounds_agree() -> None:
    # Given two segments of the usual shape
    timings = plan(SegmentShape(121, Fraction(24)), [False, False])
    first, second = sound_spans(timings, 24000)
    # Then the new sound begins 100 ms before the pinned prefix ends
    assert second.source_start == (timings[1].pinned * 40 - 100) * 24
    # And the crossfade is neither in its first half second nor in the last 50 ms of the old sound
    assert second.source_start >= 12000
    assert first.film_end <= (sound_seconds(126) - Fraction(5, 100)) * 24000
    assert (first.film_end - second.film_start, first.fade_out, second.fade_in) == (240, 240, 240)


@pytest.mark.parametrize("fps", [60, 100, 120, 200])
def test_the_shortest_segments_have_sound_too(fps: int) -> None:
    # Given segments whose new frames are barely longer than a crossfade
    timings = plan(SegmentShape(9, Fraction(fps), 1), [i % 5 == 0 for i in range(100)])
    spans = sound_spans(timings, 24000)
    # Then every span is within the film and the decoded sound, and in order
    total = film_samples(film_frames(timings), Fraction(fps), 24000)
    for timing, span in zip(timings, spans, strict=True):
        length = span.film_end - span.film_start
        assert 0 <= span.film_start <= span.film_end <= total
        assert 0 <= span.source_start <= span.source_start + length <= sound_seconds(timing.audio_latents) * 24000
        assert span.fade_in + span.fade_out <= length
    for before, after in itertools.pairwise(spans):
        assert before.film_end - after.film_start <= min(before.fade_out, after.fade_in)


def test_a_cut_ends_the_old_sound_and_begins_a_new_one() -> None:
    # Given a cut after 121 frames, whose sound ends 32 ms before the video
    before, after = sound_spans(plan(SegmentShape(121, Fraction(24)), [False, True]), 24000)
    # Then the old sound fades out at its own end, and the new one starts with the new video
    assert (before.film_end, before.fade_out) == (5010 * 24, 240)
    assert (after.film_start, after.source_start, after.fade_in) == (121000, 0, 240)


def test_a_film_that_starts_from_a_state_begins_with_its_first_new_frame() -> None:
    # Given a state with other numbers, as another runtime may write it
    shape = SegmentShape(121, Fraction(24))
    start = continued_timing(shape, pinned=17, offset=exact(0.125), index=4, first_frame=0)
    timings = plan(shape, [True, False, False], start=start)
    # Then they are used
    assert timings[0] is start
    assert (start.pinned, start.offset, start.new_frames) == (17, Fraction(1, 8), 112)
    # And the film's sound begins with the first new frame
    spans = sound_spans(timings, 24000)
    assert (spans[0].film_start, spans[0].source_start) == (0, 12000)
    # And from the second segment on, the numbers are the usual ones
    assert all(abs(t.offset - shape.prefix_seconds) <= Fraction(2, 100) for t in timings[1:])


def test_sound_is_placed_relative_to_the_first_timing() -> None:
    timings = plan(SegmentShape(25, Fraction(24)), [False, True, True])
    later = sound_spans(timings[1:], 24000)
    assert later[0].film_start == 0
    assert later[0].source_start == 0


def test_timings_with_a_gap_are_rejected() -> None:
    timings = plan(SegmentShape(25, Fraction(24)), [False] * 3)
    with pytest.raises(TimelineError, match="segment 2 does not follow segment 0"):
        sound_spans([timings[0], timings[2]], 24000)


def test_no_timings_make_no_film() -> None:
    assert plan(SegmentShape(25, Fraction(24)), []) == []
    assert sound_spans([], 24000) == []
    assert film_frames([]) == 0


@given(st.integers(0, 10**6), st.sampled_from(RATES), st.sampled_from([24000, 44100, 48000]))
def test_film_samples_is_the_rounded_length(frames: int, fps: str, rate: int) -> None:
    samples = film_samples(frames, exact(fps), rate)
    assert abs(samples - frames / exact(fps) * rate) <= Fraction(1, 2)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (24, Fraction(24)),
        (25.0, Fraction(25)),
        ("30", Fraction(30)),
        (23.976, Fraction(24000, 1001)),
        (23.98, Fraction(24000, 1001)),
        ("29.97", Fraction(30000, 1001)),
        (29.97003, Fraction(30000, 1001)),
        (47.952, Fraction(48000, 1001)),
        (59.94, Fraction(60000, 1001)),
        ("60000/1001", Fraction(60000, 1001)),
        (12.5, Fraction(25, 2)),
        (0.1, Fraction(1, 10)),
        (Fraction(30000, 1001), Fraction(30000, 1001)),
    ],
)
def test_exact_parses_frame_rates(value: float | str | Fraction, expected: Fraction) -> None:
    assert exact(value) == expected


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, "", "fast", "1/0", "1e999999999", "9" * 10000, "1_000", None, [24]]
)
def test_exact_rejects_anything_but_a_finite_number(value: object) -> None:
    with pytest.raises(TimelineError, match=r"is not a (finite )?number"):
        exact(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("x", "rounded"), [("1/2", 1), ("3/2", 2), ("5/2", 3), ("-1/2", 0), ("-3/2", -1), ("49/100", 0)]
)
def test_halves_round_up(x: str, rounded: int) -> None:
    assert round_half_up(Fraction(x)) == rounded


def test_seeds_stay_in_63_bits() -> None:
    assert segment_seed(7, 3) == 10
    assert segment_seed(2**63 - 1, 1) == 0


@pytest.mark.parametrize(("frames", "latents"), [(1, 1), (9, 2), (121, 16), (257, 33)])
def test_latent_frames_are_counted(frames: int, latents: int) -> None:
    assert latent_frames(frames) == latents


@pytest.mark.parametrize(
    ("frames", "fps", "overlap", "message"),
    [
        (120, 24, 9, "120 frames"),
        (0, 24, 9, "0 frames"),
        (-7, 24, 9, "-7 frames"),
        (121, 24, 8, "8 frames"),
        (9, 24, 9, "none of 9 new"),
        (121, 24, 129, "none of 121 new"),
        (121, 0, 9, "must be positive"),
        (121, -24, 9, "must be positive"),
        (9, 1000, 1, "shorter than one audio latent"),
    ],
)
def test_an_invalid_shape_is_rejected(frames: int, fps: int, overlap: int, message: str) -> None:
    with pytest.raises(TimelineError, match=message):
        SegmentShape(frames, Fraction(fps), overlap)


@pytest.mark.parametrize(
    ("pinned", "offset", "message"),
    [
        (-1, "1", "-1 pinned audio latents"),
        (169, "1", r"must be in 0\.\.168"),
        (51, "-1/100", "must not be negative"),
        (51, "1000", "end before the picture does; it should be about 1.667 s"),
    ],
)
def test_a_state_that_fits_no_segment_is_rejected(pinned: int, offset: str, message: str) -> None:
    with pytest.raises(TimelineError, match=message):
        continued_timing(
            SegmentShape(121, Fraction(24)), pinned=pinned, offset=Fraction(offset), index=1, first_frame=0
        )


def test_a_negative_index_is_rejected() -> None:
    with pytest.raises(TimelineError, match="segment -1"):
        first_timing(SegmentShape(121, Fraction(24)), index=-1)


@pytest.mark.parametrize(
    ("longest", "lengths"),
    [(121, (25, 41, 65, 81, 105, 121)), (481, (81, 161, 241, 321, 401, 481)), (25, (9, 17, 25)), (9, (9,))],
)
def test_lengths_to_choose_from_are_at_most_six_up_to_the_longest(longest: int, lengths: tuple[int, ...]) -> None:
    assert auto_lengths(longest) == lengths
    assert all(nearest_length(frames / 24, Fraction(24), longest) == frames for frames in lengths)


def test_a_duration_is_rounded_to_the_nearest_length() -> None:
    for seconds, frames in [(1.0, 25), (33 / 24, 25), (33.1 / 24, 41), (4.75, 121), (20.0, 121)]:
        assert nearest_length(seconds, Fraction(24), 121) == frames
    assert nearest_length(2.0, Fraction(30000, 1001), 121) == 65
