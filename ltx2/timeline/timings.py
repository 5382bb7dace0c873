"""Shapes and timings of segments."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from ltx2.errors import TimelineError
from ltx2.timeline.arithmetic import AUDIO_LATENTS_PER_SECOND, exact, latent_frames, round_half_up, sound_seconds

DEFAULT_OVERLAP = 9

_LATENT = Fraction(1, AUDIO_LATENTS_PER_SECOND)
_SHORTEST_OFFSET = Fraction(2, 100)
_CONTEXT = Fraction(49, 24)  # seconds of earlier sound that a continuation gets: 49 frames at 24 fps


@dataclass(frozen=True, slots=True)
class SegmentShape:
    """The shape of a segment: frames (8k+1), frames per second, and frames that a continuation repeats (8k+1).

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
        return self.prefix_before(self.overlap)

    def prefix_before(self, overlap: int) -> Fraction:
        """O of a segment that repeats the last `overlap` frames of this one, which bounds the sound there is before."""
        wanted = max(_SHORTEST_OFFSET, _CONTEXT - overlap / self.fps)
        return min(wanted, (self.frames - overlap) / self.fps)

    @property
    def first_audio_latents(self) -> int:
        """T of a first segment and of a segment after a cut."""
        return round_half_up(AUDIO_LATENTS_PER_SECOND * self.frames / self.fps)

    @property
    def continued_audio_latents(self) -> int:
        """T of every continuation of a segment with as many frames; fixed, so that it needs one compiled shape."""
        return self.audio_latents_after(self)

    def audio_latents_after(self, before: SegmentShape) -> int:
        """T of a continuation of a segment with the shape `before`."""
        return round_half_up(AUDIO_LATENTS_PER_SECOND * (self.frames / self.fps + before.prefix_before(self.overlap)))


@dataclass(frozen=True, slots=True)
class PlannedSegment:
    """What a spec says about the place of a segment. The first segment of a film has neither cut nor dissolve.

    cut: a new scene begins with it. dissolve: of a new scene, so many of its first frames are blended with the last
    ones of the segment before; the film shows them once.
    """

    shape: SegmentShape
    cut: bool = False
    dissolve: int = 0


@dataclass(frozen=True, slots=True)
class SegmentTiming:
    """The position of one segment. Built by `first_timing`, `continued_timing`, `next_timing` or `plan`.

    audio_latents: T. offset: local seconds of its first picture frame. pinned: audio latents kept from the previous
    segment. first_frame: film index of its first new frame. next_overlap: frames that the next segment repeats; None:
    as many as this shape says. dissolve: see `PlannedSegment`. next_dissolve: that of the next segment. video_after:
    frames at its end over which its sound is crossfaded with that of a video that follows in the film. TimelineError:
    values that are invalid for this shape.
    """

    shape: SegmentShape
    index: int
    continued: bool
    audio_latents: int
    offset: Fraction
    pinned: int
    first_frame: int
    next_overlap: int | None = None
    dissolve: int = 0
    next_dissolve: int = 0
    video_after: int = 0

    def __post_init__(self) -> None:
        latent_frames(self.tail_frames)
        if self.tail_frames >= self.shape.frames:
            raise TimelineError(
                f"segment {self.index + 1} repeats {self.tail_frames} frames of segment {self.index}, which has only "
                f"{self.shape.frames}: use fewer"
            )
        if not 0 <= self.dissolve <= (0 if self.continued else self.shape.frames):
            raise TimelineError(f"segment {self.index} cannot dissolve over {self.dissolve} frames")
        if not 0 <= self.next_dissolve <= self.new_frames - self.dissolve:
            raise TimelineError(f"segment {self.index + 1} cannot dissolve over {self.next_dissolve} frames")
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
    def fps(self) -> Fraction:
        """Frames per second."""
        return self.shape.fps

    @property
    def sound_seconds(self) -> Fraction:
        """The length of its decoded sound."""
        return sound_seconds(self.audio_latents)

    @property
    def skipped_frames(self) -> int:
        """Leading frames that repeat the end of the previous segment."""
        return self.shape.overlap if self.continued else 0

    @property
    def new_frames(self) -> int:
        """Frames that are not those of the previous segment: those of this segment's clip."""
        return self.shape.frames - self.skipped_frames

    @property
    def shown_frames(self) -> int:
        """Frames of its clip that the film shows: all but those at its end that the next one dissolves from."""
        return self.new_frames - self.next_dissolve

    @property
    def tail_frames(self) -> int:
        """Trailing frames that its state holds, for the next segment to repeat."""
        return self.shape.overlap if self.next_overlap is None else self.next_overlap

    @property
    def picture_start(self) -> Fraction:
        """Local seconds of the first new frame."""
        return self.offset + self.skipped_frames / self.shape.fps

    @property
    def next_pinned(self) -> int:
        """a: trailing audio latents of this segment that its continuation keeps, so that its offset is close to O."""
        fresh = AUDIO_LATENTS_PER_SECOND * (self._tail_start - self.shape.prefix_before(self.tail_frames))
        return min(self.audio_latents, self.audio_latents - round_half_up(fresh))

    @property
    def next_offset(self) -> Fraction:
        """The video offset of this segment's continuation, in seconds; exact, even after conversion to float."""
        # exact() changes only offsets from a foreign state with a larger denominator
        return exact(self._tail_start - _LATENT * (self.audio_latents - self.next_pinned))

    @property
    def _tail_start(self) -> Fraction:
        """Local seconds of the first frame that a continuation repeats."""
        return self.offset + (self.shape.frames - self.tail_frames) / self.shape.fps


def first_timing(
    shape: SegmentShape,
    *,
    index: int = 0,
    first_frame: int = 0,
    dissolve: int = 0,
    next_overlap: int | None = None,
    next_dissolve: int = 0,
) -> SegmentTiming:
    """The timing of a first segment, or of the first one of a new scene."""
    latents = shape.first_audio_latents
    own = (shape, index, False, latents, Fraction(0), 0, first_frame)
    return SegmentTiming(*own, next_overlap, dissolve, next_dissolve)


def continued_timing(
    shape: SegmentShape,
    *,
    pinned: int,
    offset: Fraction,
    index: int,
    first_frame: int,
    before: SegmentShape | None = None,
    next_overlap: int | None = None,
    next_dissolve: int = 0,
) -> SegmentTiming:
    """The timing of a continuation of any state, also another runtime's: its `pinned` and `offset` are used as given.

    before: the shape of the segment that left the state; None: the same.

    Raises:
        TimelineError: a negative offset, too many pinned latents, or a picture that ends after the segment's sound.
    """
    latents = shape.audio_latents_after(before or shape)
    own = (shape, index, True, latents, exact(offset), pinned, first_frame)
    return SegmentTiming(*own, next_overlap, next_dissolve=next_dissolve)


def handed_on(segment: PlannedSegment, following: PlannedSegment | None) -> tuple[int | None, int]:
    """The `next_overlap` and `next_dissolve` of `segment`. following: the segment after it, if there is one."""
    if following is None:
        return None, 0
    if following.cut:
        return None, following.dissolve
    return None if following.shape.overlap == segment.shape.overlap else following.shape.overlap, 0


def next_timing(
    previous: SegmentTiming,
    *,
    cut: bool = False,
    shape: SegmentShape | None = None,
    dissolve: int = 0,
    next_overlap: int | None = None,
    next_dissolve: int = 0,
) -> SegmentTiming:
    """The timing of the segment after `previous`: a continuation, or a new start at a cut.

    shape: that of the segment; None: as before it. The state of `previous` must be made for its overlap.
    """
    shape = shape or previous.shape
    index, first_frame = previous.index + 1, previous.first_frame + previous.new_frames - dissolve
    if previous.next_dissolve != dissolve:
        raise TimelineError(
            f"segment {index} dissolves over {dissolve} frames; segment {index - 1} leaves {previous.next_dissolve}"
        )
    if cut:
        return first_timing(
            shape,
            index=index,
            first_frame=first_frame,
            dissolve=dissolve,
            next_overlap=next_overlap,
            next_dissolve=next_dissolve,
        )
    if previous.tail_frames != shape.overlap:
        raise TimelineError(
            f"segment {index} repeats {shape.overlap} frames; segment {previous.index} hands on {previous.tail_frames}"
        )
    return continued_timing(
        shape,
        pinned=previous.next_pinned,
        offset=previous.next_offset,
        index=index,
        first_frame=first_frame,
        before=previous.shape,
        next_overlap=next_overlap,
        next_dissolve=next_dissolve,
    )


def plan(shape: SegmentShape, cuts: Sequence[bool], *, start: SegmentTiming | None = None) -> list[SegmentTiming]:
    """One timing per entry of `cuts`, which says whether there is a cut before that segment.

    `cuts[0]` is ignored: the first timing is `start` if given, otherwise that of a first segment.
    """
    return plan_segments([PlannedSegment(shape, cut) for cut in cuts], start=start)


def planned_frames(segments: Sequence[PlannedSegment]) -> int:
    """How many frames the film of these segments will have; exact, without the timings, which take longer."""
    repeated = (one.dissolve if one.cut else one.shape.overlap for one in segments[1:])
    return sum(one.shape.frames for one in segments) - sum(repeated)


def plan_segments(segments: Sequence[PlannedSegment], *, start: SegmentTiming | None = None) -> list[SegmentTiming]:
    """One timing per segment. The first one is `start` if given, otherwise that of a first segment.

    Raises:
        TimelineError: a segment repeats as many frames as the one before it has, or more.
    """
    timings: list[SegmentTiming] = []
    for segment, following in itertools.zip_longest(segments, segments[1:]):
        overlap, dissolve = handed_on(segment, following)
        if not timings:
            timing = start or first_timing(segment.shape, next_overlap=overlap, next_dissolve=dissolve)
        else:
            timing = next_timing(
                timings[-1],
                cut=segment.cut,
                shape=segment.shape,
                dissolve=segment.dissolve,
                next_overlap=overlap,
                next_dissolve=dissolve,
            )
        timings.append(timing)
    return timings
