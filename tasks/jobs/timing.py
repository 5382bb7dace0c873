"""Where a segment is in its film: after the one before it, or by what the specs say. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from ltx2.timeline import (
    PlannedSegment,
    SegmentTiming,
    SourceTiming,
    continued_timing,
    exact,
    first_timing,
    handed_on,
    source_timings,
)
from tasks.errors import RecordError
from tasks.jobs.records import Handoff
from tasks.jobs.units import START_INDEX


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


def committed_timings(planned: Mapping[int, PlannedSegment], handoffs: Sequence[Handoff]) -> dict[int, SegmentTiming]:
    """Where committed segments are in the film that shows them, by index.

    planned: the segments of the job by index. handoffs: of the committed ones, in order, after that of the state that
    the job continues, if there is one.

    Raises:
        RecordError: a handoff is damaged, or of a segment that the job does not have.
    """
    start = next((handoff for handoff in handoffs if handoff.index == START_INDEX), None)
    previous, timings = start, dict[int, SegmentTiming]()
    for handoff in handoffs:
        if (index := handoff.index) == START_INDEX:
            continue
        if index not in planned:
            raise RecordError(f"the record of a job is damaged: it has no segment {index}")
        if index and (previous is None or previous.index != index - 1):
            timings[index] = timing_in_plan(planned, index, start)
        else:
            around = {"before": planned.get(index - 1), "following": planned.get(index + 1)}
            timings[index] = shown_timing(timing_after(planned[index], previous, **around), previous)
        previous = handoff
    return timings


@dataclass(frozen=True, slots=True)
class FilmSource:
    """The video with which a film begins. clips: one for each of its parts. rate: of the film's sound in Hz."""

    clips: tuple[str, ...]
    parts: tuple[SourceTiming, ...]
    rate: int


def film_source(start: Handoff, shown: SegmentTiming, first: Handoff) -> FilmSource | None:
    """The video with which a film begins; None: it begins with segment 0.

    shown: the timing of segment 0, as the film shows it. first: what that segment left.

    Raises:
        RecordError: a handoff is damaged.
    """
    if not start.source_clips:
        return None
    try:
        rate = int(first.state["payload"]["audio_sample_rate"])
        parts = source_timings(shown.first_frame, start.source_frames, shown.fps, shown.dissolve)
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(f"the start of a job is damaged: {type(error).__name__}: {error}") from None
    if len(parts) != len(start.source_clips):
        raise RecordError(f"the start of a job is damaged: {len(start.source_clips)} clips for {len(parts)} parts")
    return FilmSource(tuple(start.source_clips), tuple(parts), rate)


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
