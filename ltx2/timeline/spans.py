"""Where the decoded sound of each segment is in its film."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from ltx2.errors import TimelineError
from ltx2.timeline.arithmetic import AUDIO_LATENTS_PER_SECOND, film_samples, round_half_up
from ltx2.timeline.parts import FilmPart

_LATENT = Fraction(1, AUDIO_LATENTS_PER_SECOND)
_CHANGEOVER = Fraction(1, 10)  # this long before the pinned prefix ends, both decodes agree
_FADE = Fraction(1, 100)


@dataclass(frozen=True, slots=True)
class SoundSpan:
    """A part of one segment's decoded sound and its position in the film; all numbers are samples.

    Film samples `film_start .. film_end` are the decoded samples from `source_start` on. The first `fade_in` of them
    are faded in, the last `fade_out` are faded out. Overlapping spans (a crossfade) are added.
    """

    index: int
    film_start: int
    film_end: int
    source_start: int
    fade_in: int
    fade_out: int


def sound_spans(timings: Sequence[FilmPart], rate: int) -> list[SoundSpan]:
    """The position of each segment's sound in the film: one span per timing, placed by absolute time.

    A segment's position is rounded to a sample once, from its exact film time, so rounding errors do not accumulate.
    At a continuation, the sound changes 100 ms before the pinned prefix ends (later only if the prefix is shorter),
    with a 10 ms crossfade. At the film's start and end and at a cut, it fades over 10 ms, and missing sound is silence.
    At a dissolve, it is crossfaded as long as the pictures are, or until the old sound ends. That of a video after the
    last segment begins with the frames that both have in common, and is crossfaded over these.

    Raises:
        TimelineError: the timings are not consecutive.
    """
    _check_contiguous(timings)
    fade = round_half_up(_FADE * rate)
    spans: list[SoundSpan] = []
    for i, timing in enumerate(timings):
        origin = _origin(timings[0], timing, rate)
        start, fade_in = (start_after(spans[-1], timing, timings[0], rate) if i else 0), fade
        if i and timing.continued:
            spans[-1] = _end_at(spans[-1], start + fade, fade)
        elif i:
            faded = _film_position(timings[0], timing.first_frame - timing.skipped_frames + timing.dissolve, rate)
            both = min(faded, spans[-1].film_end) - start  # the old sound may end up to 0.07 s before its picture
            fade_in = max(fade, both)
            spans[-1] = _end_at(spans[-1], start + max(0, both), fade_in)
        end = origin + math.floor(timing.sound_seconds * rate)
        spans.append(SoundSpan(i, start, max(start, end), start - origin, fade_in, 0))
    if spans:
        last = timings[-1]
        spans[-1] = _end_at(spans[-1], _film_position(timings[0], last.first_frame + last.new_frames, rate), fade)
    return spans


def start_after(previous: SoundSpan, timing: FilmPart, first: FilmPart, rate: int) -> int:
    """The film sample at which the sound of a segment after `previous` begins. first: the film's first segment."""
    if timing.continued:
        return _changeover(previous, timing, _origin(first, timing, rate), rate)
    return _film_position(first, timing.first_frame - timing.skipped_frames, rate)


def _film_position(first: FilmPart, frame: int, rate: int) -> int:
    return film_samples(frame - first.first_frame, first.fps, rate)


def _origin(first: FilmPart, timing: FilmPart, rate: int) -> int:
    """The film sample at which a segment's decoded sound begins; negative if it begins before the film."""
    film_seconds = (timing.first_frame - first.first_frame) / timing.fps
    return round_half_up((film_seconds - timing.picture_start) * rate)


def _changeover(previous: SoundSpan, timing: FilmPart, origin: int, rate: int) -> int:
    """The film sample at which a continuation's sound begins: inside it, and after the fade-in of `previous`."""
    wanted = origin + round_half_up((_LATENT * timing.pinned - _CHANGEOVER) * rate)
    return max(wanted, origin, previous.film_start + previous.fade_in)


def _end_at(span: SoundSpan, film_end: int, fade: int) -> SoundSpan:
    """The span, ended at `film_end` at the latest, with a fade-out as long as its length allows."""
    end = max(span.film_start, min(span.film_end, film_end))
    length = end - span.film_start
    fade_in = min(span.fade_in, length)
    return replace(span, film_end=end, fade_in=fade_in, fade_out=min(fade, length - fade_in))


def _check_contiguous(timings: Sequence[FilmPart]) -> None:
    for before, after in itertools.pairwise(timings):
        follows = before.first_frame + before.shown_frames
        if after.fps != before.fps or after.first_frame != follows:
            raise TimelineError(f"segment {after.index} does not follow segment {before.index}: frames would be lost")
