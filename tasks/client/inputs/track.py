"""Reads the sound that a spec gives to its film, and says where it does not fit the film."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from ltx2.media.sound_file import seconds_of
from ltx2.media.sources.extension import SAMPLES_PER_LATENT
from ltx2.media.sources.reader import read_track
from ltx2.media.sources.slices import Track, Window
from ltx2.timeline import SegmentTiming, film_frames
from tasks.errors import SpecError
from tasks.field_errors import shown_path
from tasks.spec.input_files import open_input
from tasks.spec.schema import JobSpec

_EDGE_DB, _AUDIBLE = 20.0, 0.01  # of full scale
_MOST_BORDERS, _MOST_WARNINGS = 2_000, 10
_TOLERANCE_S = Fraction(1, 20)


def read_track_of(spec: JobSpec) -> bytes | None:
    """The sound that `spec` names, as FLAC at its own rate; None if it names none.

    Raises:
        SpecError: the file is missing, or has no sound that can be read; names it.
    """
    if spec.audio is None:
        return None
    place = spec.source.place("audio")
    with open_input(spec.audio, field=place) as file:
        try:
            return read_track(file)
        except ValueError as error:
            raise SpecError(f"{place}: {shown_path(spec.audio)}: {error}") from None


def track_warnings(data: bytes, spec: JobSpec) -> list[str]:
    """What may surprise about a track: another length than the film, hard edges where segments join."""
    timings = spec.plan()
    film, track = film_frames(timings) / spec.shape.fps, seconds_of(data)
    warnings = []
    if abs(film - track) > _TOLERANCE_S:
        what = "silence follows it" if track < film else "the rest of it is not heard"
        warnings.append(f"audio: the track has {float(track):.2f} s, the film {float(film):.2f} s: {what}")
    edges = [
        f"audio: the track has a hard edge at {float(time):.2f} s, where segment {index} begins; the join may show it"
        for index, time in _edges(Track(data), timings)
    ]
    return warnings + edges[:_MOST_WARNINGS]


def _edges(track: Track, timings: list[SegmentTiming]) -> Iterator[tuple[int, Fraction]]:
    """Segments that continue the one before where the loudness of the track steps, and the film time."""
    for timing in islice((timing for timing in timings if timing.continued), _MOST_BORDERS):
        time = timing.first_frame / timing.shape.fps
        around = track.window(Window(time - Fraction(1, 25), 2, 0))
        before, after = (_loudness(part) for part in (around[:SAMPLES_PER_LATENT], around[SAMPLES_PER_LATENT:]))
        low, high = sorted((before, after))
        if high > _AUDIBLE and high > low * 10 ** (_EDGE_DB / 20):
            yield timing.index, time


def _loudness(samples: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.square(samples, dtype=np.float64).mean()))
