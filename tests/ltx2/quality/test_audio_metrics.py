"""Measuring pitch, loudness and clicks of known tones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltx2.quality.audio_metrics import Sound, largest_step, loudness, measure_sound, pitch, semitones

RATE = 16_000


def tone(frequency: float, seconds: float, *, level: float = 0.3) -> Sound:
    times = np.arange(round(seconds * RATE)) / RATE
    return level * np.sin(2 * np.pi * frequency * times)[None].astype(np.float32)


@pytest.mark.parametrize("frequency", [300.0, 424.0, 1000.0, 1777.0])
def test_pitch_of_a_tone(frequency: float) -> None:
    assert semitones(frequency, pitch(tone(frequency, 0.1), RATE)) == pytest.approx(0, abs=0.1)


@given(st.integers(3, 10), st.floats(0, 1))
def test_pitch_of_a_mixture_of_two_tones_is_their_weighted_mean(multiple: int, between: float) -> None:
    # Given
    times = np.arange(1600) / RATE
    parts = ((multiple, 1 - between), (multiple + 1, between))
    mixture = 0.3 * sum(np.sqrt(part) * np.sin(200 * np.pi * number * times) for number, part in parts)
    # When
    found = pitch(np.asarray(mixture, np.float32)[None], RATE)
    # Then
    assert semitones(100 * (multiple + between), found) == pytest.approx(0, abs=0.15)


def test_silence_and_noise_have_no_pitch() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, (2, 1600)).astype(np.float32)
    assert np.isnan(pitch(np.zeros((2, 1600), np.float32), RATE))
    assert np.isnan(pitch(noise, RATE))
    assert np.isnan(pitch(np.zeros((2, 0), np.float32), RATE))


def test_loudness_and_largest_step() -> None:
    square = np.tile(np.array([0.5, 0.5, -0.5, -0.5], np.float32), (2, 100))
    assert loudness(square) == pytest.approx(-6.02, abs=0.01)
    assert loudness(square[:, :0]) == -80
    assert loudness(0 * square) == -80
    assert largest_step(square) == 1.0
    assert largest_step(square[:, :1]) == 0.0


@given(st.integers(0, 10**6), st.integers(-12, 12))
def test_the_pitch_step_is_measured_in_semitones(seed: int, step: int) -> None:
    # Given
    base = np.random.default_rng(seed).uniform(350, 1100)
    first, then = tone(base, 0.5), tone(base * 2 ** (step / 12), 0.5)
    # When
    found = measure_sound(np.concatenate([first, then], axis=1), RATE, first.shape[1], first.shape[1])
    # Then
    # Then
    assert found.pitch_step == pytest.approx(step, abs=0.2)
    assert found.tones == (1, 1)
    assert abs(found.loudness_step) < 0.3


@given(st.floats(0.01, 0.5), st.floats(0.01, 0.5))
def test_the_loudness_step_is_the_ratio_of_two_tones_in_decibels(before: float, after: float) -> None:
    # Given
    sound = np.concatenate([tone(500, 0.5, level=before), tone(500, 0.5, level=after)], axis=1)
    # When
    found = measure_sound(sound, RATE, RATE // 2, RATE // 2)
    # Then
    assert found.loudness_step == pytest.approx(20 * np.log10(after / before), abs=0.1)
    assert found.usual_loudness_step < 0.1


def test_inaudible_sound_has_no_loudness_step() -> None:
    sound = np.concatenate([tone(500, 0.5, level=1e-5), tone(500, 0.5, level=1e-3)], axis=1)
    assert measure_sound(sound, RATE, RATE // 2, RATE // 2).loudness_step == 0


@pytest.mark.parametrize("place", [-60, 0, 60, 160 + 60])
def test_a_click_is_found_within_5_ms_of_the_change(place: int) -> None:
    # Given
    sound = tone(500, 1)
    usual = largest_step(sound)
    sound[:, RATE // 2 + place] += 0.5
    # When
    found = measure_sound(sound, RATE, RATE // 2, RATE // 2 + 160)
    # Then
    assert found.click > 0.4
    assert found.usual_click == pytest.approx(usual, rel=1e-3)


@given(st.integers(0, 3), st.integers(0, 5000), st.integers(0, 5000), st.integers(0, 200))
def test_any_sound_is_accepted(channels: int, samples: int, begin: int, fade: int) -> None:
    # Given a join that may be at the beginning of the sound, at its end or after it
    sound = np.random.default_rng(0).normal(0, 0.1, (channels, samples)).astype(np.float32)
    # When
    found = measure_sound(sound, RATE, begin, begin + fade)
    # Then
    assert np.isfinite([found.loudness_step, found.usual_loudness_step, found.click, found.usual_click]).all()
