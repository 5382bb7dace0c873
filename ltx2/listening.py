"""Loudness, pitch and clicks of a sound: what can be heard where two pieces meet. Sound is float `[C, n]`, -1..1."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Sound = NDArray[np.float32]

QUIETEST_DB = -80.0
WINDOW_S = 0.1  # over which loudness and pitch are measured
_LOWEST_HZ, _HIGHEST_HZ = 150.0, 2500.0
_NEIGHBOURHOOD = 1.35  # around the strongest partial, as a ratio: what is heard as one tone with it


def loudness(sound: Sound) -> float:
    """Root mean square of all channels in dB of full scale, at least QUIETEST_DB; also for no sound at all."""
    if not sound.size:
        return QUIETEST_DB
    power = float(np.square(sound, dtype=np.float64).mean())
    return max(QUIETEST_DB, 10 * math.log10(power)) if power > 0 else QUIETEST_DB


def pitch(sound: Sound, rate: int) -> float:
    """The tone's frequency in hertz, 150 to 2500: the mean, weighted with power, around the strongest partial.

    NaN where there is no tone: silence, noise without a peak, or less than 20 ms.
    """
    if sound.shape[1] < rate // 50 or loudness(sound) < -50:
        return float("nan")
    window = np.hanning(sound.shape[1])
    size = max(sound.shape[1], rate // 4)  # zeros behind the sound: finer steps of frequency
    power = np.square(np.abs(np.fft.rfft(sound * window, size))).sum(0)
    frequencies = np.fft.rfftfreq(size, 1 / rate)
    audible = (frequencies >= _LOWEST_HZ) & (frequencies <= _HIGHEST_HZ)
    power, frequencies = power[audible], frequencies[audible]
    peak = frequencies[power.argmax()]
    near = (frequencies > peak / _NEIGHBOURHOOD) & (frequencies < peak * _NEIGHBOURHOOD)
    if power[near].sum() < 0.5 * power.sum():
        return float("nan")
    return float((power[near] * frequencies[near]).sum() / power[near].sum())


def largest_step(sound: Sound) -> float:
    """The largest difference between neighbouring samples of any channel."""
    return float(np.abs(np.diff(sound, axis=1)).max()) if sound.shape[1] > 1 else 0.0


def semitones(before: float, after: float) -> float:
    """From one pitch to another; NaN where either is none."""
    return 12 * math.log2(after / before) if before > 0 and after > 0 else float("nan")
