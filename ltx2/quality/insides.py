"""Leaps inside segments. A segment that leads into a given end may be continuous at its joins and leap before it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ltx2.quality.continuity import Continuity, SegmentFigures
from ltx2.quality.shape_tracking import Track

LEAP_FACTOR, LEAP_SLACK = 2.0, 3.0
STEP_FACTOR, STEP_SLACK = 2.0, 4.0
_NEAR = 3  # changes before and after a change that are compared with it


@dataclass(frozen=True, slots=True)
class ShapeInside:
    """A shape inside a segment: its largest step from frame to frame, to film frame `frame`, and the median, pixels."""

    largest_step: float
    usual_step: float
    frame: int


@dataclass(frozen=True, slots=True)
class Inside:
    """One segment without its joins.

    largest_change: from one frame to the next, mean pixel difference 0..255. leap: how much the most sudden change, to
    film frame `frame`, exceeds those around it. usual_change: the median of the whole film. shapes: those that are
    visible as a whole in two frames in a row, if the segment is a simple picture.
    """

    segment: int
    largest_change: float
    leap: float
    frame: int
    usual_change: float
    shapes: tuple[ShapeInside, ...]


def insides(found: Continuity) -> list[Inside]:
    """Measures of each segment of a film."""
    changes = np.concatenate([segment.changes for segment in found.segments])
    usual = float(np.median(changes)) if len(changes) else 0.0
    return [_inside(segment, usual) for segment in found.segments]


def leaps(measured: list[Inside]) -> list[str]:
    """Descriptions of all measures inside segments that are out of bounds."""
    wrong = []
    for one in measured:
        if one.leap > LEAP_FACTOR * one.usual_change + LEAP_SLACK:
            wrong.append(
                f"segment {one.segment}: the picture leaps at frame {one.frame}, by {one.leap:.1f} more than around it"
            )
        for number, shape in enumerate(one.shapes, 1):
            if shape.largest_step > STEP_FACTOR * shape.usual_step + STEP_SLACK:
                wrong.append(
                    f"segment {one.segment}: shape {number} leaps {shape.largest_step:.1f} pixels at frame "
                    f"{shape.frame}, elsewhere it moves {shape.usual_step:.1f}"
                )
    return wrong


def _inside(segment: SegmentFigures, usual: float) -> Inside:
    changes = segment.changes
    sudden = _above_neighbours(changes)
    at = int(sudden.argmax()) if len(sudden) else 0
    return Inside(
        segment=segment.segment,
        largest_change=float(changes.max(initial=0.0)),
        leap=float(sudden.max(initial=0.0)),
        frame=segment.first_frame + at + 1,
        usual_change=usual,
        shapes=tuple(shape for one in segment.tracks if (shape := _steps(one, segment.first_frame)) is not None),
    )


def _above_neighbours(changes: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much each change exceeds the medians of those before and after it; fast motion exceeds neither."""
    above = np.zeros(len(changes))
    for index, change in enumerate(changes):
        around = changes[max(0, index - _NEAR) : index], changes[index + 1 : index + 1 + _NEAR]
        above[index] = change - max((float(np.median(part)) for part in around if len(part)), default=change)
    return above


def _steps(shape: Track, first_frame: int) -> ShapeInside | None:
    """The steps of a shape between frames in which all of it is visible; None if there are none."""
    visible = np.where(shape.whole[:, None], shape.centres, np.nan)
    steps = np.linalg.norm(np.diff(visible, axis=0), axis=1)
    if np.isnan(steps).all():
        return None
    return ShapeInside(float(np.nanmax(steps)), float(np.nanmedian(steps)), first_frame + int(np.nanargmax(steps)) + 1)
