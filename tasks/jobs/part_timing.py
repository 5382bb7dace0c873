"""Where a part is in its film, before all that is before it is rendered. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from ltx2.timeline import PlannedSegment, SegmentTiming, first_timing, handed_on
from tasks.errors import RecordError
from tasks.jobs.records import Handoff


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
