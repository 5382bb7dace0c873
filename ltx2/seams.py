"""How well a film's segments join: what changes at a join, measured against what changes within segments."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ltx2.listening import WINDOW_S, Sound, largest_step, loudness, pitch, semitones
from ltx2.timeline import SegmentTiming, film_samples, sound_spans
from ltx2.tracking import Track, track

_NEAR = 6  # frames at either side of a join over which motion is measured
_SAME_COLOUR = 90.0  # in RGB space, up to which a colour is the same shape's
_STANDS_STILL = 0.3  # pixels per frame
_AT_WALL = 0.03  # of the picture's width or height, from a shape's edge to the wall it may have bounced off

JUMP_FACTOR, JUMP_SLACK = 1.5, 1.0
CLICK_FACTOR, CLICK_SLACK = 1.5, 0.01
MOST_SEMITONES = 1.0
MOST_COLOUR = 45.0


@dataclass(frozen=True, slots=True)
class ShapeAtSeam:
    """One shape across a join; all is NaN or empty where it was lost.

    jump, usual_jump: pixels it moves at the join, and from frame to frame around it; NaN where something hides it.
    turned: whether it changes its direction away from a wall. colour_change: distance in RGB, 0..441. kinds: what it
    looks like before and after.
    """

    jump: float
    usual_jump: float
    turned: bool
    colour_change: float
    kinds: tuple[str, str]

    @property
    def is_lost(self) -> bool:
        """Whether nothing of its colour is there after the join."""
        return math.isnan(self.colour_change)


@dataclass(frozen=True, slots=True)
class Seam:
    """One join, before film frame `frame`, where segment `segment` begins; `cut` where it was meant to be seen.

    change, usual_change: mean difference of pixels, 0..255, at the join and from frame to frame in both segments.
    loudness_step: dB. pitch_step: semitones, NaN where there is no tone. click, usual_click: the largest difference
    between neighbouring samples where the sound changes over, and within both segments.
    """

    segment: int
    frame: int
    cut: bool
    change: float
    usual_change: float
    shapes: tuple[ShapeAtSeam, ...]
    loudness_step: float
    pitch_step: float
    click: float
    usual_click: float


@dataclass(frozen=True, slots=True)
class SegmentFigures:
    """One segment by itself: the film's frame with which it begins, the change from each of its frames to the next, and
    its shapes."""

    segment: int
    first_frame: int
    changes: NDArray[np.float64]
    tracks: list[Track]


@dataclass(frozen=True, slots=True)
class Continuity:
    """A film's segments, and what is between them."""

    segments: list[SegmentFigures]
    seams: list[Seam]


def continuity(
    pieces: Iterable[NDArray[np.uint8]], sound: Sound, rate: int, timings: Sequence[SegmentTiming]
) -> Continuity:
    """Measure a film: per timing the new frames `[T, H, W, 3]` of a segment, and the sound `[C, n]`, `rate` samples a
    second. Two segments' frames are held at a time.

    ValueError: frames or sound that are not those of these timings.
    """
    total = sum(timing.new_frames for timing in timings)
    samples = film_samples(total, timings[0].shape.fps, rate)
    if sound.shape[1] != samples:
        raise ValueError(f"{sound.shape[1]} samples of sound; these segments have {samples}")
    spans, found, before = sound_spans(timings, rate), Continuity([], []), None
    for timing, span, piece in zip(timings, spans, pieces, strict=True):
        if len(piece) != timing.new_frames:
            raise ValueError(f"{len(piece)} frames of segment {timing.index}; it has {timing.new_frames}")
        first = timing.first_frame - timings[0].first_frame
        found.segments.append(SegmentFigures(timing.index, first, _changes(piece), track(piece)))
        if before is not None:
            begin, end = span.film_start, span.film_start + span.fade_in
            heard = _heard(sound, rate, begin, end)
            one, other = found.segments[-2:]
            found.seams.append(_seam(timing, one, other, np.stack([before, piece[0]]), heard))
        before = piece[-1]
    return found


def _seam(
    timing: SegmentTiming,
    one: SegmentFigures,
    other: SegmentFigures,
    frames: NDArray[np.uint8],
    heard: dict[str, float],
) -> Seam:
    return Seam(
        segment=other.segment,
        frame=other.first_frame,
        cut=not timing.continued,
        change=float(_changes(frames)[0]),
        usual_change=float(np.median(np.concatenate([one.changes, other.changes, [0.0]]))),
        shapes=_shapes(one.tracks, other.tracks, (frames.shape[2], frames.shape[1])),
        **heard,
    )


def broken(found: Sequence[Seam]) -> list[str]:
    """What is wrong at joins that should not be seen or heard, in words; cuts are not judged."""
    return [f"segment {seam.segment}: {what}" for seam in found if not seam.cut for what in _broken(seam)]


def _broken(seam: Seam) -> list[str]:
    wrong = []
    for number, shape in enumerate(seam.shapes, 1):
        if shape.is_lost:
            wrong.append(f"shape {number} is gone")
            continue
        if shape.jump > JUMP_FACTOR * shape.usual_jump + JUMP_SLACK:
            wrong.append(f"shape {number} jumps {shape.jump:.1f} pixels where it moves {shape.usual_jump:.1f}")
        if shape.turned:
            wrong.append(f"shape {number} turns")
        if shape.colour_change > MOST_COLOUR:
            wrong.append(f"shape {number} changes its colour by {shape.colour_change:.0f}")
        if all(shape.kinds) and len(set(shape.kinds)) > 1:
            wrong.append(f"shape {number} was a {shape.kinds[0]} and is a {shape.kinds[1]}")
    if seam.click > CLICK_FACTOR * seam.usual_click + CLICK_SLACK:
        wrong.append(f"the sound clicks: a step of {seam.click:.3f} where {seam.usual_click:.3f} is usual")
    if abs(seam.pitch_step) > MOST_SEMITONES:
        wrong.append(f"the pitch steps by {seam.pitch_step:+.1f} semitones")
    return wrong


def _changes(frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The mean difference of pixels from each frame to the next, `[T - 1]`."""
    return np.asarray(np.abs(np.diff(frames.astype(np.int16), axis=0)).mean((1, 2, 3)), np.float64)


def _shapes(before: list[Track], after: list[Track], size: tuple[int, int]) -> tuple[ShapeAtSeam, ...]:
    """Each shape of `before` with the shape of its colour in `after`."""
    left, shapes = list(after), []
    for one in before:
        distances = [float(np.linalg.norm(one.colour - other.colour)) for other in left]
        if not distances or min(distances) > _SAME_COLOUR:
            shapes.append(ShapeAtSeam(math.nan, math.nan, False, math.nan, (one.kind, "")))
        else:
            other = left.pop(int(np.argmin(distances)))
            shapes.append(_across(one, other, min(distances), size))
    return tuple(shapes)


def _across(one: Track, other: Track, colour_change: float, size: tuple[int, int]) -> ShapeAtSeam:
    last, first = (np.where(part.whole[:, None], part.centres, np.nan) for part in (one, other))
    last, first = last[-_NEAR - 1 :], first[: _NEAR + 1]
    steps = np.concatenate([np.diff(last, axis=0), np.diff(first, axis=0)])
    usual = float(np.nanmedian(np.linalg.norm(steps, axis=1))) if not np.isnan(steps).all() else math.nan
    return ShapeAtSeam(
        jump=float(np.linalg.norm(first[0] - last[-1])),
        usual_jump=usual,
        turned=_turned(last, first, float(np.nanmax(np.concatenate([one.areas, other.areas]))), size),
        colour_change=colour_change,
        kinds=(one.kind, other.kind),
    )


def _turned(last: NDArray[np.float64], first: NDArray[np.float64], area: float, size: tuple[int, int]) -> bool:
    """Whether it moves the other way along an axis whose walls are too far away to have turned it."""
    radius = math.sqrt(area / math.pi)
    for axis, extent in enumerate(size):
        before, after = (np.diff(part[:, axis]) for part in (last, first))
        if np.isnan(before).all() or np.isnan(after).all():
            continue
        ways = float(np.nanmedian(before)), float(np.nanmedian(after))
        places = np.concatenate([last[:, axis], first[:, axis]])
        reach = radius + _AT_WALL * extent + max(map(abs, ways))
        at_wall = np.nanmin(places) < reach or np.nanmax(places) > extent - reach
        if min(map(abs, ways)) > _STANDS_STILL and ways[0] * ways[1] < 0 and not at_wall:
            return True
    return False


def _heard(sound: Sound, rate: int, begin: int, end: int) -> dict[str, float]:
    """What is heard around film samples `begin` to `end`, where one segment's sound changes over to the next one's."""
    window, around = round(WINDOW_S * rate), round(0.005 * rate)
    before, after = sound[:, max(0, begin - window) : begin], sound[:, end : end + window]
    inside = [sound[:, max(0, begin - 5 * window) : begin - around], sound[:, end + around : end + 5 * window]]
    return {
        "loudness_step": loudness(after) - loudness(before),
        "pitch_step": semitones(pitch(before, rate), pitch(after, rate)),
        "click": largest_step(sound[:, max(0, begin - around) : end + around]),
        "usual_click": max(map(largest_step, inside)),
    }
