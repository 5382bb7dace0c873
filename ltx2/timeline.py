"""Positions of frames, audio latents and sound samples in a film: exact arithmetic, no model, no I/O.

In the local time of a segment, audio latent `t` is at 0.04 t seconds and picture frame `j` at `offset + j/fps`. A
continuation pins the last `pinned` audio latents of the previous segment (so its local time 0 is 0.04 (T - pinned) in
that segment) and repeats its last `overlap` frames. All positions are `Fraction`s, so they stay exact over any number
of segments.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from ltx2.errors import TimelineError

AUDIO_LATENTS_PER_SECOND = 25
TEMPORAL_COMPRESSION = 8
POSITIONS_S = 20
"""Seconds up to which a published LTX-2 has positions, as its config says: `pos_embed_max_pos`."""
DEFAULT_OVERLAP = 9

_LATENT = Fraction(1, AUDIO_LATENTS_PER_SECOND)
_SHORTEST_OFFSET = Fraction(2, 100)
_CONTEXT = Fraction(49, 24)  # seconds of earlier sound that a continuation gets: 49 frames at 24 fps
_CHANGEOVER = Fraction(1, 10)  # this long before the pinned prefix ends, both decodes agree
_FADE = Fraction(1, 100)

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


@dataclass(frozen=True, slots=True)
class SegmentShape:
    """The shape of all segments of a job: frames per segment (8k+1), frames per second, repeated frames (8k+1).

    TimelineError: a count that is not 8k+1, an overlap that leaves no new frame, a rate that is not positive, or one so
    high that a segment is shorter than one audio latent.
    """

    frames: int
    fps: Fraction
    overlap: int = DEFAULT_OVERLAP

    def __post_init__(self) -> None:
        object.__setattr__(self, "fps", exact(self.fps))  # an int would turn every division below into a float
        latent_frames(self.frames)
        latent_frames(self.overlap)
        if self.overlap >= self.frames:
            raise TimelineError(f"{self.overlap} overlapping frames leave none of {self.frames} new: use fewer")
        if self.fps <= 0:
            raise TimelineError(f"{self.fps} frames per second: the rate must be positive")
        if self.first_audio_latents < 1:
            raise TimelineError(f"{self.frames} frames at {self.fps} per second are shorter than one audio latent")

    @property
    def prefix_seconds(self) -> Fraction:
        """O: the seconds of sound that should precede the picture of a continuation."""
        wanted = max(_SHORTEST_OFFSET, _CONTEXT - self.overlap / self.fps)
        return min(wanted, (self.frames - self.overlap) / self.fps)

    @property
    def first_audio_latents(self) -> int:
        """T of a first segment and of a segment after a cut."""
        return round_half_up(AUDIO_LATENTS_PER_SECOND * self.frames / self.fps)

    @property
    def continued_audio_latents(self) -> int:
        """T of every continuation; fixed, so that it needs one compiled shape."""
        return round_half_up(AUDIO_LATENTS_PER_SECOND * (self.frames / self.fps + self.prefix_seconds))


@dataclass(frozen=True, slots=True)
class SegmentTiming:
    """The position of one segment. Built by `first_timing`, `continued_timing`, `next_timing` or `plan`.

    audio_latents: T. offset: local seconds of its first picture frame. pinned: audio latents kept from the previous
    segment. first_frame: film index of its first new frame. TimelineError: values that are invalid for this shape.
    """

    shape: SegmentShape
    index: int
    continued: bool
    audio_latents: int
    offset: Fraction
    pinned: int
    first_frame: int

    def __post_init__(self) -> None:
        if self.index < 0 or self.first_frame < 0:
            raise TimelineError(f"segment {self.index} at film frame {self.first_frame}: neither may be negative")
        if not 0 <= self.pinned <= self.audio_latents:
            raise TimelineError(
                f"{self.pinned} pinned audio latents: must be in 0..{self.audio_latents} for this segment"
            )
        if self.offset < 0:
            raise TimelineError(f"a video offset of {float(self.offset)} s: it must not be negative")
        if self.next_pinned < 1:
            raise TimelineError(
                f"a video offset of {float(self.offset)} s: the {self.audio_latents} audio latents end before the "
                f"picture does; it should be about {float(self.shape.prefix_seconds):.3f} s"
            )

    @property
    def skipped_frames(self) -> int:
        """Leading frames that repeat the end of the previous segment."""
        return self.shape.overlap if self.continued else 0

    @property
    def new_frames(self) -> int:
        """Frames that this segment adds to the film."""
        return self.shape.frames - self.skipped_frames

    @property
    def picture_start(self) -> Fraction:
        """Local seconds of the first new frame."""
        return self.offset + self.skipped_frames / self.shape.fps

    @property
    def next_pinned(self) -> int:
        """a: trailing audio latents of this segment that its continuation keeps, so that its offset is close to O."""
        fresh = AUDIO_LATENTS_PER_SECOND * (self._tail_start - self.shape.prefix_seconds)
        return min(self.audio_latents, self.audio_latents - round_half_up(fresh))

    @property
    def next_offset(self) -> Fraction:
        """The video offset of this segment's continuation, in seconds; exact, even after conversion to float."""
        # exact() changes only offsets from a foreign state with a larger denominator
        return exact(self._tail_start - _LATENT * (self.audio_latents - self.next_pinned))

    @property
    def _tail_start(self) -> Fraction:
        """Local seconds of the first frame that a continuation repeats."""
        return self.offset + (self.shape.frames - self.shape.overlap) / self.shape.fps


def first_timing(shape: SegmentShape, *, index: int = 0, first_frame: int = 0) -> SegmentTiming:
    """The timing of a first segment, or of one after a cut."""
    return SegmentTiming(shape, index, False, shape.first_audio_latents, Fraction(0), 0, first_frame)


def continued_timing(
    shape: SegmentShape, *, pinned: int, offset: Fraction, index: int, first_frame: int
) -> SegmentTiming:
    """The timing of a continuation of any state, also another runtime's: its `pinned` and `offset` are used as given.

    Raises:
        TimelineError: a negative offset, too many pinned latents, or a picture that ends after the segment's sound.
    """
    return SegmentTiming(shape, index, True, shape.continued_audio_latents, exact(offset), pinned, first_frame)


def next_timing(previous: SegmentTiming, *, cut: bool = False) -> SegmentTiming:
    """The timing of the segment after `previous`: a continuation, or a new start at a cut."""
    index, first_frame = previous.index + 1, previous.first_frame + previous.new_frames
    if cut:
        return first_timing(previous.shape, index=index, first_frame=first_frame)
    return continued_timing(
        previous.shape, pinned=previous.next_pinned, offset=previous.next_offset, index=index, first_frame=first_frame
    )


def plan(shape: SegmentShape, cuts: Sequence[bool], *, start: SegmentTiming | None = None) -> list[SegmentTiming]:
    """One timing per entry of `cuts`, which says whether there is a cut before that segment.

    `cuts[0]` is ignored: the first timing is `start` if given, otherwise that of a first segment.
    """
    timings: list[SegmentTiming] = []
    for cut in cuts:
        timings.append(next_timing(timings[-1], cut=cut) if timings else start or first_timing(shape))
    return timings


def film_frames(timings: Sequence[SegmentTiming]) -> int:
    """The number of frames of a film of these segments."""
    return sum(timing.new_frames for timing in timings)


def film_samples(frames: int, fps: Fraction, rate: int) -> int:
    """The number of sound samples per channel for `frames` frames: frames / fps * rate, rounded."""
    return round_half_up(frames / exact(fps) * rate)


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


def sound_spans(timings: Sequence[SegmentTiming], rate: int) -> list[SoundSpan]:
    """The position of each segment's sound in the film: one span per timing, placed by absolute time.

    A segment's position is rounded to a sample once, from its exact film time, so rounding errors do not accumulate.
    At a continuation, the sound changes 100 ms before the pinned prefix ends (later only if the prefix is shorter),
    with a 10 ms crossfade. At the film's start and end and at a cut, it fades over 10 ms, and missing sound is silence.

    Raises:
        TimelineError: the timings are not consecutive.
    """
    _check_contiguous(timings)
    fade = round_half_up(_FADE * rate)
    spans: list[SoundSpan] = []
    for i, timing in enumerate(timings):
        origin = _origin(timings, i, rate)
        if i == 0:
            start, fade_in = 0, fade
        elif timing.continued:
            start, fade_in = _changeover(spans[-1], timing, origin, rate), fade
            spans[-1] = _end_at(spans[-1], start + fade, fade)
        else:
            start, fade_in = _film_position(timings, timing.first_frame, rate), fade
            spans[-1] = _end_at(spans[-1], start, fade)
        end = origin + math.floor(sound_seconds(timing.audio_latents) * rate)
        spans.append(SoundSpan(i, start, max(start, end), start - origin, fade_in, 0))
    if spans:
        last = timings[-1]
        spans[-1] = _end_at(spans[-1], _film_position(timings, last.first_frame + last.new_frames, rate), fade)
    return spans


def _film_position(timings: Sequence[SegmentTiming], frame: int, rate: int) -> int:
    return film_samples(frame - timings[0].first_frame, timings[0].shape.fps, rate)


def _origin(timings: Sequence[SegmentTiming], i: int, rate: int) -> int:
    """The film sample at which segment `i`'s decoded sound begins; negative if it begins before the film."""
    timing = timings[i]
    film_seconds = (timing.first_frame - timings[0].first_frame) / timing.shape.fps
    return round_half_up((film_seconds - timing.picture_start) * rate)


def _changeover(previous: SoundSpan, timing: SegmentTiming, origin: int, rate: int) -> int:
    """The film sample at which a continuation's sound begins: inside it, and after the fade-in of `previous`."""
    wanted = origin + round_half_up((_LATENT * timing.pinned - _CHANGEOVER) * rate)
    return max(wanted, origin, previous.film_start + previous.fade_in)


def _end_at(span: SoundSpan, film_end: int, fade: int) -> SoundSpan:
    """The span, ended at `film_end` at the latest, with a fade-out as long as its length allows."""
    end = max(span.film_start, min(span.film_end, film_end))
    length = end - span.film_start
    fade_in = min(span.fade_in, length)
    return replace(span, film_end=end, fade_in=fade_in, fade_out=min(fade, length - fade_in))


def _check_contiguous(timings: Sequence[SegmentTiming]) -> None:
    for before, after in itertools.pairwise(timings):
        if after.shape != before.shape or after.first_frame != before.first_frame + before.new_frames:
            raise TimelineError(f"segment {after.index} does not follow segment {before.index}: frames would be lost")
