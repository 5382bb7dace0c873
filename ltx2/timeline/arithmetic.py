"""Rates, times and counts as exact numbers."""

from __future__ import annotations

import math
import re
from fractions import Fraction

from ltx2.errors import TimelineError

AUDIO_LATENTS_PER_SECOND = 25
TEMPORAL_COMPRESSION = 8
POSITIONS_S = 20
"""Seconds up to which a published LTX-2 has positions, as its config says: `pos_embed_max_pos`."""

_NTSC_RATES = [Fraction(k * 1000, 1001) for k in (24, 30, 48, 60, 120)]
_NTSC_TOLERANCE = Fraction(5, 1000)  # accepts "23.98"
_LARGEST_DENOMINATOR = 1_000_000  # such fractions differ by at least 1e-12, so they differ as floats
_NUMBER = re.compile(r"[+-]?[0-9]{1,12}(\.[0-9]{1,15}|/[0-9]{1,12})?")


def exact(value: float | str | Fraction) -> Fraction:
    """The exact fraction for `value`, with a denominator of at most 1,000,000.

    The usual forms of NTSC rates (23.976, "23.98", 29.97, 59.94) become k * 1000/1001. A `Fraction` with such a
    denominator survives conversion to float.

    Raises:
        TimelineError: not a finite number.
    """
    if isinstance(value, Fraction):
        return value.limit_denominator(_LARGEST_DENOMINATOR)
    if isinstance(value, str) and not _NUMBER.fullmatch(value.strip()):
        raise TimelineError(f"{value[:40]!r} is not a number such as 24, 29.97 or 30000/1001")
    try:
        fraction = Fraction(value).limit_denominator(_LARGEST_DENOMINATOR)
    except (ArithmeticError, TypeError, ValueError):
        raise TimelineError(f"{value!r} is not a finite number") from None
    ntsc = (rate for rate in _NTSC_RATES if abs(fraction - rate) < _NTSC_TOLERANCE)
    return next(ntsc, fraction)


def exact_seconds(value: float | Fraction) -> Fraction:
    """The exact fraction for a finite time in seconds: 0.1 is 1/10. Unlike `exact`, it knows no rates."""
    return Fraction(value).limit_denominator(_LARGEST_DENOMINATOR)


def round_half_up(x: Fraction) -> int:
    """The nearest integer; halves are rounded up, also below zero."""
    return math.floor(x + Fraction(1, 2))


def segment_seed(seed: int, index: int) -> int:
    """The seed of segment `index` of a job, different for each segment, in 0 .. 2**63 - 1."""
    return (seed + index) % 2**63


def longest_frames(fps: Fraction) -> int:
    """The most frames, 8k+1, whose positions LTX-2 knows at this rate: up to 20 fps + 4.

    Its positions are times up to POSITIONS_S, and that of the last latent is 4 frames before the end.
    """
    most = POSITIONS_S * fps + TEMPORAL_COMPRESSION // 2
    return int((most - 1) // TEMPORAL_COMPRESSION) * TEMPORAL_COMPRESSION + 1


def latent_frames(frames: int) -> int:
    """The number of latent frames for `frames` = 8k+1 frames: k + 1.

    Raises:
        TimelineError: another number of frames.
    """
    if frames < 1 or frames % TEMPORAL_COMPRESSION != 1:
        raise TimelineError(f"{frames} frames: LTX-2 needs 8k+1 frames (9, 17, 25, ..., 121)")
    return (frames - 1) // TEMPORAL_COMPRESSION + 1


def latent_of(frame: int) -> int:
    """The latent frame that holds a frame of a segment: latent l holds the frames 8l - 7 .. 8l, latent 0 frame 0."""
    return -(-frame // TEMPORAL_COMPRESSION)


def sound_seconds(audio_latents: int) -> Fraction:
    """The length of the sound that `audio_latents` = L latents decode to: (4L - 3) * 10 ms."""
    return Fraction(4 * audio_latents - 3, 100)


def film_samples(frames: int, fps: Fraction, rate: int) -> int:
    """The number of sound samples per channel for `frames` frames: frames / fps * rate, rounded."""
    return round_half_up(frames / exact(fps) * rate)
