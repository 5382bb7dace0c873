"""The arithmetic of films whose segments differ in length, in how much they repeat, and in how they begin."""

from __future__ import annotations

import itertools
from fractions import Fraction
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ltx2.errors import TimelineError
from ltx2.timeline import (
    PlannedSegment,
    SegmentShape,
    SegmentTiming,
    continued_timing,
    exact,
    exact_seconds,
    film_frames,
    film_samples,
    first_timing,
    handed_on,
    next_timing,
    plan,
    plan_segments,
    planned_frames,
    round_half_up,
    sound_seconds,
    sound_spans,
)

RATES = ["23.976", "24", "25", "29.97", "30", "48", "50", "59.94", "60"]
LATENT = Fraction(1, 25)
FADE = Fraction(1, 100)


def random_film(fps: Fraction, segments: int, random: Random) -> list[PlannedSegment]:
    """Segments of random lengths and overlaps, about a sixth of them cuts and as many dissolves."""
    planned: list[PlannedSegment] = []
    while len(planned) < segments:
        before = planned[-1] if planned else None
        begins = before is None or random.random() < 1 / 3
        frames = 8 * random.randint(1, 32) + 1
        longest = min(frames, frames if begins or before is None else before.shape.frames) - 8
        overlap = 8 * random.randint(0, min(3, (longest - 1) // 8)) + 1
        shape = SegmentShape(frames, fps, overlap)
        dissolve = 0
        if begins and before is not None and random.random() < 1 / 2:
            of_before = before.shape.frames - (0 if before.cut or len(planned) == 1 else before.shape.overlap)
            dissolve = random.randint(0, min(frames, of_before) // 2)
        planned.append(PlannedSegment(shape, begins and before is not None, dissolve))
    return planned


@st.composite
def films(draw: st.DrawFn, most: int = 40) -> list[SegmentTiming]:
    random = draw(st.randoms(use_true_random=False))
    return plan_segments(random_film(exact(draw(st.sampled_from(RATES))), draw(st.integers(1, most)), random))


@given(st.sampled_from(RATES), st.integers(0, 40), st.randoms(use_true_random=False))
def test_the_frames_of_a_film_are_known_without_its_timings(fps: str, segments: int, random: Random) -> None:
    planned = random_film(exact(fps), segments, random)
    assert planned_frames(planned) == film_frames(plan_segments(planned))


def check_handoffs(timings: list[SegmentTiming]) -> None:
    """Every segment has the sound and the frames that the next one repeats, and they agree about time."""
    for timing in timings:
        assert timing.offset >= 0
        assert 0 < timing.next_pinned <= timing.audio_latents
        assert exact(float(timing.next_offset)) == timing.next_offset
    for before, timing in itertools.pairwise(timings):
        if not timing.continued:
            assert (timing.offset, timing.pinned) == (0, 0)
            continue
        # the state holds what is repeated, and leaves something to render
        assert before.tail_frames == timing.shape.overlap < before.shape.frames
        assert timing.pinned == before.next_pinned < timing.audio_latents
        # the picture is where it should be: close to O, however long the chain is
        wanted = before.shape.prefix_before(timing.shape.overlap)
        assert abs(timing.offset - wanted) <= Fraction(2, 100)
        # the prefix begins in the segment before, and reaches the end of what is repeated to within two latents
        assert abs(timing.pinned * LATENT - timing.picture_start) <= 2 * LATENT
        # the sound of the segment is as long as its picture, to within two latents
        end = timing.offset + timing.shape.frames / timing.shape.fps
        assert abs(timing.audio_latents * LATENT - end) <= 2 * LATENT
        # a repeated frame has the same time in both
        shift = LATENT * (before.audio_latents - timing.pinned)
        tail = (before.shape.frames - timing.shape.overlap) / before.shape.fps
        assert before.offset + tail == shift + timing.offset


def check_sound(timings: list[SegmentTiming], rate: int) -> None:
    spans = sound_spans(timings, rate)
    fps = timings[0].shape.fps
    total = film_samples(film_frames(timings), fps, rate)
    for timing, span in zip(timings, spans, strict=True):
        length = span.film_end - span.film_start
        assert 0 <= span.film_start < span.film_end <= total
        assert 0 <= span.source_start <= span.source_start + length <= sound_seconds(timing.audio_latents) * rate
        assert span.fade_in + span.fade_out <= length
        # never off by more than one rounding, in a film of any length
        place = (timing.first_frame / fps - timing.picture_start) * rate
        assert abs(span.film_start - span.source_start - place) <= Fraction(1, 2)
    for (_, span), (timing, after) in itertools.pairwise(zip(timings, spans, strict=True)):
        both = span.film_end - after.film_start
        if timing.continued:
            assert both == span.fade_out == after.fade_in == FADE * rate
        elif both > FADE * rate:
            # the sound dissolves as the picture does, but for the end that a decoded sound lacks
            assert both == span.fade_out == after.fade_in
            assert -1 < timing.dissolve / fps * rate - both <= Fraction(7, 100) * rate + 1
        else:
            assert -both <= Fraction(7, 100) * rate
            assert timing.dissolve / fps <= Fraction(8, 100)
    for span, _, later in zip(spans, spans[1:], spans[2:], strict=False):
        assert span.film_end <= later.film_start
    assert spans[0].film_start == 0
    assert 0 <= total - spans[-1].film_end <= Fraction(7, 100) * rate


@pytest.mark.parametrize("fps", RATES)
def test_a_thousand_unequal_segments_neither_drift_nor_lose_a_sample(fps: str) -> None:
    # Given a thousand segments of random lengths, overlaps, cuts and dissolves
    planned = random_film(exact(fps), 1000, Random(fps))
    # When
    timings = plan_segments(planned)
    # Then every state suffices for the segment after it
    check_handoffs(timings)
    # And the sound is contiguous and in its place
    for rate in (24000, 44100):
        check_sound(timings, rate)


@settings(max_examples=30)
@given(films(), st.sampled_from([16000, 24000, 44100, 48000]))
def test_short_films_are_as_exact(timings: list[SegmentTiming], rate: int) -> None:
    check_handoffs(timings)
    check_sound(timings, rate)


@given(films())
def test_no_frame_is_lost_or_shown_twice(timings: list[SegmentTiming]) -> None:
    # When the shown frames of every segment are placed by its timing
    placed = [timing.first_frame + i for timing in timings for i in range(timing.shown_frames)]
    # Then they are the film's frames, each once and in order
    assert placed == list(range(film_frames(timings)))


@given(films(), st.integers(0, 39))
def test_a_resumed_film_continues_as_planned(timings: list[SegmentTiming], at: int) -> None:
    # Given the numbers that a serialised state has after a segment that another one continues
    pairs = [(one, other) for one, other in itertools.pairwise(timings) if other.continued]
    if not pairs:
        return
    before, after = pairs[at % len(pairs)]
    # When another process, which knows the spec, continues from it, Then its timing is that which was planned
    assert after == continued_timing(
        after.shape,
        pinned=before.next_pinned,
        offset=exact(float(before.next_offset)),
        index=before.index + 1,
        first_frame=before.first_frame + before.new_frames,
        before=before.shape,
        next_overlap=after.next_overlap,
        next_dissolve=after.next_dissolve,
    )


@given(st.integers(1, 32), st.integers(0, 3), st.sampled_from(RATES), st.lists(st.booleans(), min_size=1, max_size=40))
def test_equal_segments_are_planned_as_before(eights: int, more: int, fps: str, cuts: list[bool]) -> None:
    shape = SegmentShape(8 * eights + 1, exact(fps), 8 * min(more, eights - 1) + 1)
    # the numbers of the contract, which name no other segment
    timings = plan(shape, cuts)
    assert timings == plan_segments([PlannedSegment(shape, cut) for cut in cuts])
    wanted = max(Fraction(2, 100), Fraction(49, 24) - shape.overlap / shape.fps)
    o = min(wanted, (shape.frames - shape.overlap) / shape.fps)
    for before, timing in itertools.pairwise(timings):
        assert (timing.next_overlap, timing.dissolve) == (None, 0)
        if timing.continued:
            tail = before.offset + (shape.frames - shape.overlap) / shape.fps
            total = before.audio_latents
            assert timing.audio_latents == round_half_up(25 * (shape.frames / shape.fps + o))
            assert timing.pinned == min(total, total - round_half_up(25 * (tail - o)))
            assert timing.offset == tail - LATENT * (total - timing.pinned)


def test_the_numbers_of_a_long_segment_after_a_short_one() -> None:
    # Given 25 frames, then 121 that repeat 17 of them, then 25 that repeat 1
    fps = Fraction(24)
    shapes = [SegmentShape(25, fps), SegmentShape(121, fps, 17), SegmentShape(25, fps, 1)]
    first, second, third = plan_segments([PlannedSegment(shape) for shape in shapes])
    # Then the long one has as much sound before its picture as the short one has: 8 frames
    assert (first.audio_latents, first.tail_frames, first.next_pinned) == (26, 17, 26)
    assert second.offset == Fraction(8, 24)
    assert second.audio_latents == round(25 * (121 / 24 + 8 / 24)) == 134
    # And the short one after it has two seconds, to within half a latent
    assert (second.tail_frames, third.offset) == (1, Fraction(151, 75))
    assert (third.pinned, third.audio_latents) == (51, 76)
    assert [timing.first_frame for timing in (first, second, third)] == [0, 25, 129]
    assert film_frames([first, second, third]) == 25 + 104 + 24


def test_a_dissolve_overlaps_two_scenes() -> None:
    # Given two scenes of 25 frames, which dissolve over 12 of them
    shape = SegmentShape(25, Fraction(24))
    timings = plan_segments([PlannedSegment(shape), PlannedSegment(shape, cut=True, dissolve=12)])
    # Then the film is 12 frames shorter, and the second scene begins where the dissolve does
    assert film_frames(timings) == 38
    assert [timing.shown_frames for timing in timings] == [13, 25]
    assert timings[1].first_frame == 13
    # And its sound rises for half a second, less the 32 ms that the decoded sound of the first scene lacks
    before, after = sound_spans(timings, 24000)
    assert (after.film_start, after.source_start, after.fade_in) == (13000, 0, 24240 - 13000)
    assert (before.film_end, before.fade_out) == (24240, after.fade_in)
    assert sound_seconds(26) * 24000 == 24240


def test_what_is_handed_on_depends_on_the_segment_after_it() -> None:
    shape, other = SegmentShape(25, Fraction(24)), SegmentShape(33, Fraction(24), 17)
    assert handed_on(PlannedSegment(shape), PlannedSegment(other)) == (17, 0)
    assert handed_on(PlannedSegment(shape), PlannedSegment(other, cut=True, dissolve=5)) == (None, 5)
    for following in (None, PlannedSegment(shape), PlannedSegment(other, cut=True)):
        assert handed_on(PlannedSegment(shape), following) == (None, 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: plan_segments([PlannedSegment(SegmentShape(n, Fraction(24), v)) for n, v in ((17, 9), (33, 17))]),
            "segment 1 repeats 17 frames of segment 0, which has only 17",
        ),
        (
            lambda: next_timing(first_timing(SegmentShape(25, Fraction(24))), shape=SegmentShape(25, Fraction(24), 1)),
            "segment 1 repeats 1 frames; segment 0 hands on 9",
        ),
        (
            lambda: first_timing(SegmentShape(25, Fraction(24)), dissolve=26),
            "segment 0 cannot dissolve over 26 frames",
        ),
        (
            lambda: first_timing(SegmentShape(25, Fraction(24)), dissolve=20, next_dissolve=6),
            "segment 1 cannot dissolve over 6 frames",
        ),
        (
            lambda: next_timing(first_timing(SegmentShape(25, Fraction(24))), cut=True, dissolve=6),
            "segment 1 dissolves over 6 frames; segment 0 leaves 0",
        ),
    ],
)
def test_what_does_not_fit_is_rejected(call: object, message: str) -> None:
    with pytest.raises(TimelineError, match=message):
        call()  # type: ignore[operator]


def test_times_are_not_rates() -> None:
    assert (exact_seconds(23.98), exact(23.98)) == (Fraction(1199, 50), Fraction(24000, 1001))
