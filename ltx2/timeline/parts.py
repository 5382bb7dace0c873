"""Parts of a film: its segments, and the parts of a video that it begins or ends with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Protocol

from ltx2.errors import TimelineError
from ltx2.timeline.arithmetic import TEMPORAL_COMPRESSION

_PART_S = 3
_FADE_S = Fraction(1, 8)  # of sound between parts: more than a resampler needs at both edges


class FilmPart(Protocol):
    """What joining needs of a part, a `SegmentTiming` or a `SourceTiming`; see there."""

    @property
    def index(self) -> int: ...
    @property
    def fps(self) -> Fraction: ...
    @property
    def continued(self) -> bool: ...
    @property
    def pinned(self) -> int: ...
    @property
    def first_frame(self) -> int: ...
    @property
    def skipped_frames(self) -> int: ...
    @property
    def new_frames(self) -> int: ...
    @property
    def shown_frames(self) -> int: ...
    @property
    def dissolve(self) -> int: ...
    @property
    def picture_start(self) -> Fraction: ...
    @property
    def sound_seconds(self) -> Fraction: ...


@dataclass(frozen=True, slots=True)
class SourceTiming:
    """The position of a part of a video before the first segment of a film, or after the last one.

    index: negative, -1 is the last part. first_frame: film index of its first frame. new_frames: its frames, all of
    which are shown. dissolve, following: frames over which its sound is crossfaded with that of the part before, and of
    the part after it. skipped_frames: of the video before its first frame, which the last segment shows: its sound
    begins with them.
    """

    index: int
    fps: Fraction
    first_frame: int
    new_frames: int
    dissolve: int
    following: int
    skipped_frames: int = 0

    @property
    def continued(self) -> bool:
        """False: its sound is crossfaded with that of the part before."""
        return False

    @property
    def pinned(self) -> int:
        """0: no sound was handed on to it."""
        return 0

    @property
    def shown_frames(self) -> int:
        """Frames of its clip that the film shows: all."""
        return self.new_frames

    @property
    def picture_start(self) -> Fraction:
        """Seconds from the start of its sound to its first frame."""
        return self.skipped_frames / self.fps

    @property
    def sound_seconds(self) -> Fraction:
        """The length of its sound, which goes on under the next part."""
        return (self.skipped_frames + self.new_frames + self.following) / self.fps


def source_part_frames(fps: Fraction, frame_bytes: int, most_bytes: int) -> int:
    """How many frames each part of a video but the last has: 3 s, or fewer so that a part has at most `most_bytes`."""
    return max(2 * _fade(fps), min(int(_PART_S * fps), most_bytes // (2 * frame_bytes)), 1)


def source_timings(frames: int, part_frames: int, fps: Fraction, overlap: int) -> list[SourceTiming]:
    """The parts of a video of which a film shows `frames` frames before its first segment; the last may be longer.

    overlap: how many more frames the video has, which the first segment repeats. Over these, its sound is crossfaded.

    Raises:
        TimelineError: fewer than one frame, or parts that are too short.
    """
    fade = _fade(fps)
    if frames < 1 or part_frames < fade:
        raise TimelineError(f"{frames} frames of a video in parts of {part_frames}: at least 1 and {fade} are needed")
    firsts = range(0, max(1, frames - part_frames + 1), part_frames)
    ends = [*firsts[1:], frames]
    return [
        SourceTiming(
            index=number - len(firsts),
            fps=fps,
            first_frame=first,
            new_frames=end - first,
            dissolve=fade if number else 0,
            following=fade if end < frames else overlap,
        )
        for number, (first, end) in enumerate(zip(firsts, ends, strict=True))
    ]


def shared_frames(overlap: int) -> int:
    """How many frames a segment has in common with a video that follows: at least those of two latents."""
    return max(overlap, TEMPORAL_COMPRESSION + 1)


def source_timings_after(
    frames: int, part_frames: int, fps: Fraction, overlap: int, first_frame: int
) -> list[SourceTiming]:
    """The parts of a video of which a film shows `frames` frames after its last segment.

    overlap: how many frames the video has before these, with which the last segment ends. Over these, its sound is
    crossfaded with the video's. first_frame: film index of the first frame after them.

    Raises:
        TimelineError: as `source_timings`.
    """
    first, *others = source_timings(frames, part_frames, fps, 0)
    first = replace(first, dissolve=overlap, skipped_frames=overlap)
    return [replace(part, first_frame=first_frame + part.first_frame) for part in (first, *others)]


def film_frames(parts: Sequence[FilmPart]) -> int:
    """The number of frames of a film of these parts."""
    return sum(part.shown_frames for part in parts)


def _fade(fps: Fraction) -> int:
    return max(1, math.ceil(_FADE_S * fps))
