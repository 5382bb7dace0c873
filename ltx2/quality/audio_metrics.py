"""Loudness, pitch and clicks of a sound where two segments meet. Sound is float `[C, n]`, -1..1."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Sound = NDArray[np.float32]

QUIETEST_DB = -80.0
SILENT_DB = -50.0  # below it, differences cannot be heard
WINDOW_S = 0.1  # loudness and pitch are measured over this time
_WINDOWS = 4  # windows on each side of a join that give the usual values
_CLICK_S = 0.005  # clicks are measured this close to a join
_LOWEST_HZ, _HIGHEST_HZ = 150.0, 2500.0
_NEIGHBOURHOOD = 1.35  # frequency ratio around the strongest partial that is heard as the same tone
_PART_IN_TONE = 0.65  # of the audible power; noise has at most 0.44 of it in a neighbourhood


@dataclass(frozen=True, slots=True)
class SoundAtSeam:
    """Measures of the sound where it changes from one segment's to the next one's; NaN if there is nothing to measure.

    loudness_step: dB from the 0.1 s before to the 0.1 s after; silence counts as SILENT_DB. usual_loudness_step: the
    largest step, up or down, between neighbouring windows on either side. pitch_step: semitones. tones: the part of the
    0.4 s before, and of the 0.4 s after, that has a tone, 0..1. click, usual_click: the largest difference between
    neighbouring samples, at the change and on either side.
    """

    loudness_step: float
    usual_loudness_step: float
    pitch_step: float
    tones: tuple[float, float]
    click: float
    usual_click: float


def measure_sound(sound: Sound, rate: int, begin: int, end: int) -> SoundAtSeam:
    """Measure the sound around the change between samples `begin` and `end`. rate: samples per second."""
    window, around = round(WINDOW_S * rate), round(_CLICK_S * rate)
    before, after = sound[:, max(0, begin - _WINDOWS * window) : begin], sound[:, end : end + _WINDOWS * window]
    one, other = before[:, -window:], after[:, :window]
    sides = [_windows(before[:, ::-1], window), _windows(after, window)]
    levels = [[max(SILENT_DB, loudness(piece)) for piece in side] for side in sides]
    return SoundAtSeam(
        loudness_step=max(SILENT_DB, loudness(other)) - max(SILENT_DB, loudness(one)),
        usual_loudness_step=max((abs(b - a) for side in levels for a, b in itertools.pairwise(side)), default=0.0),
        pitch_step=semitones(pitch(one, rate), pitch(other, rate)),
        tones=(_part_with_tone(sides[0], rate), _part_with_tone(sides[1], rate)),
        click=largest_step(sound[:, max(0, begin - around) : end + around]),
        usual_click=max(largest_step(before[:, :-around]), largest_step(after[:, around:])),
    )


def loudness(sound: Sound) -> float:
    """Root mean square of all channels in dB of full scale, at least QUIETEST_DB, which is also that of no samples."""
    if not sound.size:
        return QUIETEST_DB
    power = float(np.square(sound, dtype=np.float64).mean())
    return max(QUIETEST_DB, 10 * math.log10(power)) if power > 0 else QUIETEST_DB


def pitch(sound: Sound, rate: int) -> float:
    """The tone's frequency in hertz, 150 to 2500: the mean, weighted with power, around the strongest partial.

    NaN if there is no tone: silence, noise without a peak, or less than 20 ms.
    """
    if sound.shape[1] < rate // 50 or loudness(sound) < SILENT_DB:
        return float("nan")
    window = np.hanning(sound.shape[1])
    size = max(sound.shape[1], rate // 4)  # zero padding, for a finer frequency resolution
    power = np.square(np.abs(np.fft.rfft(sound * window, size))).sum(0)
    frequencies = np.fft.rfftfreq(size, 1 / rate)
    audible = (frequencies >= _LOWEST_HZ) & (frequencies <= _HIGHEST_HZ)
    power, frequencies = power[audible], frequencies[audible]
    peak = frequencies[power.argmax()]
    lobe = 2 * rate / sound.shape[1]  # half the width of a partial in a Hann window; a partial one would shift the mean
    near = (frequencies > peak / _NEIGHBOURHOOD - lobe) & (frequencies < peak * _NEIGHBOURHOOD + lobe)
    if power[near].sum() < _PART_IN_TONE * power.sum():
        return float("nan")
    return float((power[near] * frequencies[near]).sum() / power[near].sum())


def largest_step(sound: Sound) -> float:
    """The largest difference between neighbouring samples of any channel."""
    return float(np.abs(np.diff(sound, axis=1)).max()) if sound.size > len(sound) else 0.0


def semitones(before: float, after: float) -> float:
    """Semitones from one pitch to another; NaN if either is NaN."""
    return 12 * math.log2(after / before) if before > 0 and after > 0 else float("nan")


def _windows(sound: Sound, size: int) -> list[Sound]:
    """Consecutive complete windows of `size` samples, from the beginning."""
    return [sound[:, start : start + size] for start in range(0, sound.shape[1] - size + 1, size)]


def _part_with_tone(windows: list[Sound], rate: int) -> float:
    """The part of these windows that has a tone, 0..1; NaN if there are none."""
    return sum(not math.isnan(pitch(piece, rate)) for piece in windows) / len(windows) if windows else math.nan
