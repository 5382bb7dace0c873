"""Where every frame, audio latent and sound sample of a film lies: exact arithmetic, no model, no I/O.

Segment-local time: audio latent `t` of a segment sits at 0.04 t seconds, its picture frame `j` at `offset + j/fps`.
A continuation pins the last `pinned` audio latents of the segment before (so its local time 0 is that segment's
0.04 (T - pinned)) and repeats that segment's last `overlap` frames. Everything is a `Fraction`, so positions that
should be equal are equal, whatever the number of segments.
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
DEFAULT_OVERLAP = 9

_LATENT = Fraction(1, AUDIO_LATENTS_PER_SECOND)
_SHORTEST_OFFSET = Fraction(2, 100)
_CONTEXT = Fraction(49, 24)  # seconds of the past that a continuation hears: 49 frames at 24 fps
_CHANGEOVER = Fraction(1, 10)  # before the pinned prefix ends, where both decodes agree
_FADE = Fraction(1, 100)

_NTSC_RATES = [Fraction(k * 1000, 1001) for k in (24, 30, 48, 60, 120)]
_NTSC_TOLERANCE = Fraction(5, 1000)  # as coarse as "23.98"
_LARGEST_DENOMINATOR = 1_000_000  # such fractions lie 1e-12 apart or more, so a float tells them apart
_NUMBER = re.compile(r"[+-]?[0-9]{1,12}(\.[0-9]{1,15}|/[0-9]{1,12})?")


def exact(value: float | str | Fraction) -> Fraction:
    """The simple fraction that `value` means, with a denominator of at most 1,000,000.

    The usual ways to write an NTSC rate (23.976, "23.98", 29.97, 59.94) become k * 1000/1001. A `Fraction` with such a
    denominator, written as a float, comes back as itself. TimelineError: not a finite number.
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
    """The nearest integer; a half goes up, also below zero."""
    return math.floor(x + Fraction(1, 2))


def segment_seed(seed: int, index: int) -> int:
    """The seed of segment `index` of a job: another one for each segment, in 0 .. 2**63 - 1."""
    return (seed + index) % 2**63


def latent_frames(frames: int) -> int:
    """How many latent frames `frames` = 8k+1 pictures make: k + 1. TimelineError for any other count."""
    if frames < 1 or frames % TEMPORAL_COMPRESSION != 1:
        raise TimelineError(f"{frames} frames: LTX-2 takes 8k+1 of them (9, 17, 25, ..., 121)")
    return (frames - 1) // TEMPORAL_COMPRESSION + 1


def sound_seconds(audio_latents: int) -> Fraction:
    """How much sound `audio_latents` = L latents decode to: (4L - 3) * 10 ms."""
    return Fraction(4 * audio_latents - 3, 100)


@dataclass(frozen=True, slots=True)
class SegmentShape:
    """What all segments of a job have in common: frames per segment (8k+1), frames per second, repeated frames (8k+1).

    TimelineError: a count that is not 8k+1, an overlap that leaves no new frame, a rate that is not positive or so high
    that a segment is shorter than one audio latent.
    """

    frames: int
    fps: Fraction
    overlap: int = DEFAULT_OVERLAP

    def __post_init__(self) -> None:
        object.__setattr__(self, "fps", exact(self.fps))  # an int would turn every division below into a float
        latent_frames(self.frames)
        latent_frames(self.overlap)
        if self.overlap >= self.frames:
            raise TimelineError(f"{self.overlap} overlapping frames leave none of {self.frames} new: repeat fewer")
        if self.fps <= 0:
            raise TimelineError(f"{self.fps} frames per second: the rate must be positive")
        if self.first_audio_latents < 1:
            raise TimelineError(f"{self.frames} frames at {self.fps} per second are shorter than one audio latent")

    @property
    def prefix_seconds(self) -> Fraction:
        """O: where the picture of a continuation should begin on its own audio clock."""
        wanted = max(_SHORTEST_OFFSET, _CONTEXT - self.overlap / self.fps)
        return min(wanted, (self.frames - self.overlap) / self.fps)

    @property
    def first_audio_latents(self) -> int:
        """T of a first segment, or of one after a cut."""
        return round_half_up(AUDIO_LATENTS_PER_SECOND * self.frames / self.fps)

    @property
    def continued_audio_latents(self) -> int:
        """T of every continuation: one number, hence one compiled shape."""
        return round_half_up(AUDIO_LATENTS_PER_SECOND * (self.frames / self.fps + self.prefix_seconds))


@dataclass(frozen=True, slots=True)
class SegmentTiming:
    """One segment's place. Build it with `first_timing`, `continued_timing`, `next_timing` or `plan`.

    audio_latents: T. offset: local seconds of its first picture frame. pinned: audio latents kept from the segment
    before. first_frame: film index of its first new frame. TimelineError: values that fit no segment of this shape.
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
                f"{self.pinned} pinned audio latents: this segment has room for 0..{self.audio_latents}"
            )
        if self.offset < 0:
            raise TimelineError(f"a video offset of {float(self.offset)} s: it must not be negative")
        if self.next_pinned < 1:
            raise TimelineError(
                f"a video offset of {float(self.offset)} s: the {self.audio_latents} audio latents end before the "
                f"picture does; about {float(self.shape.prefix_seconds):.3f} s would be right"
            )

    @property
    def skipped_frames(self) -> int:
        """Leading frames that repeat the tail of the segment before."""
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
        """a: trailing audio latents of this segment that its continuation keeps, so that its offset comes near O."""
        fresh = AUDIO_LATENTS_PER_SECOND * (self._tail_start - self.shape.prefix_seconds)
        return min(self.audio_latents, self.audio_latents - round_half_up(fresh))

    @property
    def next_offset(self) -> Fraction:
        """The video offset of this segment's continuation, seconds; as a float it reads back to the same fraction."""
        # exact() changes nothing, unless the state came with an offset that is no simple fraction
        return exact(self._tail_start - _LATENT * (self.audio_latents - self.next_pinned))

    @property
    def _tail_start(self) -> Fraction:
        """Local seconds of the first frame that a continuation repeats."""
        return self.offset + (self.shape.frames - self.shape.overlap) / self.shape.fps


def first_timing(shape: SegmentShape, *, index: int = 0, first_frame: int = 0) -> SegmentTiming:
    """A segment that continues nothing: the first one, or the one after a cut."""
    return SegmentTiming(shape, index, False, shape.first_audio_latents, Fraction(0), 0, first_frame)


def continued_timing(
    shape: SegmentShape, *, pinned: int, offset: Fraction, index: int, first_frame: int
) -> SegmentTiming:
    """A segment that continues any state, ours or another runtime's: its own `pinned` and `offset` are obeyed.

    TimelineError: a negative offset, or more pinned latents or a later picture than the segment's sound has room for.
    """
    return SegmentTiming(shape, index, True, shape.continued_audio_latents, exact(offset), pinned, first_frame)


def next_timing(previous: SegmentTiming, *, cut: bool = False) -> SegmentTiming:
    """The segment after `previous`: its continuation, or a fresh beginning at a cut."""
    index, first_frame = previous.index + 1, previous.first_frame + previous.new_frames
    if cut:
        return first_timing(previous.shape, index=index, first_frame=first_frame)
    return continued_timing(
        previous.shape, pinned=previous.next_pinned, offset=previous.next_offset, index=index, first_frame=first_frame
    )


def plan(shape: SegmentShape, cuts: Sequence[bool], *, start: SegmentTiming | None = None) -> list[SegmentTiming]:
    """One timing per entry of `cuts`; an entry says whether that segment begins afresh.

    The first segment has nothing to be cut from: it is `start` where given, else a fresh one, whatever `cuts[0]` says.
    """
    timings: list[SegmentTiming] = []
    for cut in cuts:
        timings.append(next_timing(timings[-1], cut=cut) if timings else start or first_timing(shape))
    return timings


def film_frames(timings: Sequence[SegmentTiming]) -> int:
    """How many frames the film of these segments has."""
    return sum(timing.new_frames for timing in timings)


def film_samples(frames: int, fps: Fraction, rate: int) -> int:
    """How many sound samples per channel belong to `frames` frames: exactly frames / fps * rate, rounded."""
    return round_half_up(frames / exact(fps) * rate)


@dataclass(frozen=True, slots=True)
class SoundSpan:
    """A piece of one segment's decoded sound and its place in the film; all numbers are samples.

    Film samples `film_start .. film_end` take the decode's samples from `source_start` on; the first `fade_in` of them
    rise from silence, the last `fade_out` fall to it. Where spans overlap (a crossfade) they are added.
    """

    index: int
    film_start: int
    film_end: int
    source_start: int
    fade_in: int
    fade_out: int


def sound_spans(timings: Sequence[SegmentTiming], rate: int) -> list[SoundSpan]:
    """Where each segment's sound sits in the film: one span per timing, placed by absolute time.

    A segment's place is rounded to a sample once, from its exact film time, so rounding never accumulates. At a
    continuation the sound changes over 100 ms before the pinned prefix ends (later only where the prefix is shorter),
    with a 10 ms crossfade; at a cut and at the film's end it fades over 10 ms and what is missing stays silent.
    TimelineError: timings that do not follow one another.
    """
    _check_contiguous(timings)
    fade = round_half_up(_FADE * rate)
    spans: list[SoundSpan] = []
    for i, timing in enumerate(timings):
        origin = _origin(timings, i, rate)
        if i == 0:
            start, fade_in = 0, 0
        elif timing.continued:
            start, fade_in = _changeover(spans[-1], timing, origin, rate), fade
            spans[-1] = _ending(spans[-1], start + fade, fade)
        else:
            start, fade_in = _film_position(timings, timing.first_frame, rate), fade
            spans[-1] = _ending(spans[-1], start, fade)
        end = origin + math.floor(sound_seconds(timing.audio_latents) * rate)
        spans.append(SoundSpan(i, start, max(start, end), start - origin, fade_in, 0))
    if spans:
        last = timings[-1]
        spans[-1] = _ending(spans[-1], _film_position(timings, last.first_frame + last.new_frames, rate), fade)
    return spans


def _film_position(timings: Sequence[SegmentTiming], frame: int, rate: int) -> int:
    return film_samples(frame - timings[0].first_frame, timings[0].shape.fps, rate)


def _origin(timings: Sequence[SegmentTiming], i: int, rate: int) -> int:
    """The film sample at which segment `i`'s decode begins, or would begin before the film does."""
    timing = timings[i]
    film_seconds = (timing.first_frame - timings[0].first_frame) / timing.shape.fps
    return round_half_up((film_seconds - timing.picture_start) * rate)


def _changeover(previous: SoundSpan, timing: SegmentTiming, origin: int, rate: int) -> int:
    """The film sample where a continuation's sound begins: within its decode, and after the fade into `previous`."""
    wanted = origin + round_half_up((_LATENT * timing.pinned - _CHANGEOVER) * rate)
    return max(wanted, origin, previous.film_start + previous.fade_in)


def _ending(span: SoundSpan, film_end: int, fade: int) -> SoundSpan:
    """The span, cut off at `film_end` if it reaches so far, and faded out as far as it is long enough."""
    end = max(span.film_start, min(span.film_end, film_end))
    length = end - span.film_start
    fade_in = min(span.fade_in, length)
    return replace(span, film_end=end, fade_in=fade_in, fade_out=min(fade, length - fade_in))


def _check_contiguous(timings: Sequence[SegmentTiming]) -> None:
    for before, after in itertools.pairwise(timings):
        if after.shape != before.shape or after.first_frame != before.first_frame + before.new_frames:
            raise TimelineError(f"segment {after.index} does not follow segment {before.index}: frames would be lost")
