"""Where a segment is in its film: after the one before it, or by what the specs say. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from typing import TypeVar

from ltx2.timeline import (
    PlannedSegment,
    SegmentTiming,
    SourceTiming,
    continued_timing,
    exact,
    first_timing,
    handed_on,
    source_timings,
    source_timings_after,
)
from tasks.errors import RecordError
from tasks.jobs.reading.status import damaged
from tasks.jobs.records import DAMAGE, Handoff
from tasks.jobs.units import START_INDEX, VIDEO_AFTER_INDEX

T = TypeVar("T")


def timing_after(
    segment: PlannedSegment,
    previous: Handoff | None,
    *,
    before: PlannedSegment | None = None,
    following: PlannedSegment | None = None,
) -> SegmentTiming:
    """The timing of the segment after `previous`: continued from its state, or a new scene. None: the first one.

    before, following: the segments before and after it; None: there is none, or it comes from outside.
    """
    overlap, dissolve = handed_on(segment, following)
    if previous is None:
        return first_timing(segment.shape, next_overlap=overlap, next_dissolve=dissolve)
    try:
        return _timing_after(segment, previous, before, overlap, dissolve)
    except (ArithmeticError, AttributeError, KeyError, TypeError) as error:
        what = f"the state after segment {previous.index}"
        raise RecordError(f"{what} is damaged: {type(error).__name__}: {error}") from None


def _timing_after(
    segment: PlannedSegment, previous: Handoff, before: PlannedSegment | None, overlap: int | None, dissolve: int
) -> SegmentTiming:
    shape = segment.shape
    payload = previous.state["payload"]
    index, first_frame = payload["segment_index"] + 1, previous.first_frame
    if before is not None:
        skipped = before.shape.overlap if previous.continued else 0
        first_frame += before.shape.frames - skipped - segment.dissolve
    if segment.cut:
        return first_timing(
            shape,
            index=index,
            first_frame=first_frame,
            dissolve=segment.dissolve,
            next_overlap=overlap,
            next_dissolve=dissolve,
        )
    return continued_timing(
        shape,
        pinned=payload["audio_conditioning_num_frames"],
        offset=exact(payload["video_position_offset_sec"]),
        index=index,
        first_frame=first_frame,
        before=before.shape if before else None,
        next_overlap=overlap,
        next_dissolve=dissolve,
    )


def shown_timing(timing: SegmentTiming, start: Handoff | None) -> SegmentTiming:
    """`timing` of a job's first segment, as the film shows it: after a video that it extends, with its first frames.

    Over these, the sound of a video with which the film begins is crossfaded with its own.
    """
    if start is None or start.index != START_INDEX or not start.first_frame or not timing.continued:
        return timing
    repeated = timing.skipped_frames
    return replace(
        timing,
        continued=False,
        first_frame=start.first_frame - repeated,
        dissolve=repeated if start.source_clips else 0,
    )


def timing_before_video(timing: SegmentTiming, video: Handoff | None) -> SegmentTiming:
    """`timing` of a job's last segment, as the film shows it: its sound fades into that of a video that follows."""
    return replace(timing, video_after=video.dissolve) if video is not None and video.source_clips else timing


def committed_timings(
    job_id: str, planned: Mapping[int, PlannedSegment], handoffs: Sequence[Handoff]
) -> dict[int, SegmentTiming]:
    """Where committed segments are in the film that shows them, by index.

    planned: the segments of the job by index. handoffs: of the committed ones, in order, after what the job was given.

    Raises:
        RecordError: a handoff is damaged, or of a segment that the job does not have.
    """
    given = {handoff.index: handoff for handoff in handoffs if handoff.index < 0}
    start = previous = given.get(START_INDEX)
    timings: dict[int, SegmentTiming] = {}
    for handoff in handoffs:
        if (index := handoff.index) < 0:
            continue
        if index not in planned:
            raise RecordError(f"the record of job {job_id} is damaged: it has no segment {index}")
        if index and (previous is None or previous.index != index - 1):
            timings[index] = timing_in_plan(planned, index, start)
        else:
            around = {"before": planned.get(index - 1), "following": planned.get(index + 1)}
            timings[index] = shown_timing(timing_after(planned[index], previous, **around), previous)
        previous = handoff
    if (last := max(planned, default=-1)) in timings:
        timings[last] = timing_before_video(timings[last], given.get(VIDEO_AFTER_INDEX))
    return timings


@dataclass(frozen=True, slots=True)
class FilmSource:
    """The video with which a film begins or ends. clips: one for each of its parts. rate: of the film's sound in Hz.

    is_after: whether the film ends with it.
    """

    clips: tuple[str, ...]
    parts: tuple[SourceTiming, ...]
    rate: int
    is_after: bool

    def in_order(self, video: Iterable[T], segments: Iterable[T]) -> Iterable[T]:
        """What belongs to the video and to the segments, such as their clips, in the order of the film."""
        return chain(segments, video) if self.is_after else chain(video, segments)


def film_source(
    job_id: str, given: Iterable[Handoff], timings: Sequence[SegmentTiming], first: Handoff
) -> FilmSource | None:
    """The video that a film shows as a whole; None: it shows none.

    given: see `Committed.given`. timings: of all segments, as the film shows them. first: what segment 0 left.

    Raises:
        RecordError: a handoff is damaged.
    """
    video = next((one for one in given if one.source_clips), None)
    if video is None:
        return None
    is_after, start, end = video.index == VIDEO_AFTER_INDEX, timings[0], timings[-1]
    try:
        rate = int(first.state["payload"]["audio_sample_rate"])
        if is_after:
            frames, begin = video.first_frame - video.dissolve, end.first_frame + end.new_frames
            parts = source_timings_after(frames, video.source_frames, end.fps, video.dissolve, begin)
        else:
            parts = source_timings(start.first_frame, video.source_frames, start.fps, start.dissolve)
    except DAMAGE as error:
        raise damaged(job_id, error) from None
    if len(parts) != len(video.source_clips):
        raise RecordError(
            f"the record of job {job_id} is damaged: {len(video.source_clips)} clips for {len(parts)} parts of a video"
        )
    return FilmSource(tuple(video.source_clips), tuple(parts), rate, is_after)


def timing_in_plan(planned: Mapping[int, PlannedSegment], index: int, start: Handoff | None) -> SegmentTiming:
    """The timing of segment `index`, which is a cut, by what the specs of all before it say.

    planned: the segments of the job by index. start: the state that the job continues.

    Raises:
        RecordError: a segment is missing, or the start is damaged.
    """
    try:
        segments = [planned[at] for at in range(index + 1)]
        number, first_frame = index, 0
        if start is not None:
            number, first_frame = index + start.state["payload"]["segment_index"] + 1, start.first_frame
    except (KeyError, TypeError) as error:
        raise RecordError(f"the record of a job is damaged: {type(error).__name__}: {error}") from None
    for at, (segment, following) in enumerate(pairwise(segments)):
        continues = not segment.cut and (at > 0 or start is not None)
        first_frame += segment.shape.frames - following.dissolve - (segment.shape.overlap if continues else 0)
    overlap, dissolve = handed_on(segments[index], planned.get(index + 1))
    return first_timing(
        segments[index].shape, index=number, first_frame=first_frame, next_overlap=overlap, next_dissolve=dissolve
    )
