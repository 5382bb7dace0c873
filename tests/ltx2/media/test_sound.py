"""Composing a film's sound from the sound of its segments."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ltx2.errors import MediaError
from ltx2.media.sound import SoundComposer
from ltx2.timeline import (
    SegmentShape,
    SegmentTiming,
    SoundSpan,
    film_frames,
    film_samples,
    plan,
    sound_seconds,
    sound_spans,
)

HERTZ = 200.0


def decoded_times(timings: list[SegmentTiming], i: int, rate: int) -> NDArray[np.float64]:
    """Film time in seconds of each sample of segment i's decoded sound."""
    timing = timings[i]
    starts = (timing.first_frame - timings[0].first_frame) / timing.shape.fps - timing.picture_start
    return float(starts) + np.arange(math.floor(sound_seconds(timing.audio_latents) * rate)) / rate


def compose(timings: list[SegmentTiming], rate: int, sounds: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    samples = film_samples(film_frames(timings), timings[0].shape.fps, rate)
    composer = SoundComposer(sound_spans(timings, rate), samples, sounds[0].shape[1])
    return np.concatenate([composer.add(i, sound) for i, sound in enumerate(sounds)])


def tones(timings: list[SegmentTiming], rate: int, channels: int = 1) -> list[NDArray[np.float32]]:
    """The decoded sound of each segment, in a film of one continuous tone."""
    return [
        np.sin(2 * np.pi * HERTZ * decoded_times(timings, i, rate))[:, None].repeat(channels, 1).astype(np.float32)
        for i in range(len(timings))
    ]


def ideal_tone(samples: int, rate: int) -> NDArray[np.float64]:
    return np.sin(2 * np.pi * HERTZ * np.arange(samples) / rate)[:, None]


shapes = st.builds(
    SegmentShape,
    st.sampled_from([25, 33, 57]),
    st.sampled_from([Fraction(24), Fraction(25), Fraction(24000, 1001), Fraction(30)]),
    st.sampled_from([1, 9, 17]),
)


@settings(deadline=None, max_examples=30)
@given(
    shape=shapes,
    count=st.integers(1, 12),
    rate=st.sampled_from([16000, 24000, 44100, 48000]),
    channels=st.sampled_from([1, 2]),
)
def test_a_tone_across_continuations_is_preserved(shape: SegmentShape, count: int, rate: int, channels: int) -> None:
    # Given one tone over film time, decoded segment by segment
    timings = plan(shape, [False] * count)
    # When it is composed
    film = compose(timings, rate, tones(timings, rate, channels))
    # Then it has the film's length, and is the tone to half a sample, except in the first 10 and the last 90 ms
    assert film.shape == (film_samples(film_frames(timings), shape.fps, rate), channels)
    half_a_sample = 2 * math.pi * HERTZ * 0.5 / rate
    heard = slice(round(0.01 * rate) + 1, len(film) - round(0.09 * rate))
    error = np.abs(film - ideal_tone(len(film), rate))[heard]
    assert error.max() <= half_a_sample + 1e-5


@settings(deadline=None, max_examples=30)
@given(
    frames=st.integers(1, 20).map(lambda k: 8 * k + 1),
    overlap=st.sampled_from([1, 9, 17]),
    fps=st.sampled_from([Fraction(24), Fraction(24000, 1001), Fraction(50), Fraction(60)]),
    cuts=st.lists(st.booleans(), min_size=1, max_size=8),
    rate=st.sampled_from([8000, 24000, 44100]),
)
def test_the_length_is_exact_and_the_level_never_exceeds_full_scale(
    frames: int, overlap: int, fps: Fraction, cuts: list[bool], rate: int
) -> None:
    # Given full-scale sound in every segment
    timings = plan(SegmentShape(max(frames, overlap + 8), fps, overlap), cuts)
    ones = [np.ones((len(decoded_times(timings, i, rate)), 1), np.float32) for i in range(len(timings))]
    # When it is composed
    film = compose(timings, rate, ones)
    # Then no sample is missing or added, and overlapping fades never exceed full scale
    assert len(film) == film_samples(film_frames(timings), fps, rate)
    assert film.min() >= 0
    assert film.max() <= 1 + 1e-6


def test_sound_fades_at_the_start_at_a_cut_and_at_the_end_and_gaps_are_silent() -> None:
    # Given two segments of full-scale sound with a cut between them
    rate = 24000
    timings = plan(SegmentShape(25, Fraction(24)), [False, True])
    ones = [np.ones((len(decoded_times(timings, i, rate)), 1), np.float32) for i in range(2)]
    # When it is composed
    film = compose(timings, rate, ones)[:, 0]
    # Then each sound (26 latents, 1.01 s) fades out over 10 ms, and is silent until its video ends (25/24 s)
    cut = film_samples(25, Fraction(24), rate)
    for start, end in ((0, cut), (cut, len(film))):
        decoded = start + round(1.01 * rate)
        assert (film[decoded:end] == 0).all()
        fall = film[decoded - 240 : decoded]
        assert (np.diff(fall) < 0).all()
        assert film[decoded - 241] == 1
    # And sound fades in over 10 ms, from almost nothing, at the beginning of the film and after the cut
    for begin in (0, cut):
        assert film[begin] < 0.01
        assert (np.diff(film[begin : begin + 240]) > 0).all()
        assert film[begin + 240] == 1


def test_a_crossfade_keeps_the_level() -> None:
    # Given two spans of equal sound that overlap by 4 samples
    spans = [SoundSpan(0, 0, 10, 0, 0, 4), SoundSpan(1, 6, 14, 3, 4, 0)]
    composer = SoundComposer(spans, 14, 1)
    # When they are composed
    first = composer.add(0, np.ones((10, 1), np.float32))
    second = composer.add(1, np.ones((11, 1), np.float32))
    # Then the first call returns only samples before the overlap, and the level is constant
    assert len(first) == 6
    assert np.concatenate([first, second]) == pytest.approx(np.ones((14, 1)))


def test_too_little_sound_is_rejected() -> None:
    composer = SoundComposer([SoundSpan(0, 0, 10, 5, 0, 0)], 10, 1)
    with pytest.raises(MediaError, match="14 samples of sound, expected at least 15"):
        composer.add(0, np.zeros((14, 1), np.float32))
