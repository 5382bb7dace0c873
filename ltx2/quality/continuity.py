"""Continuity of a film: changes at its joins, compared with changes inside its segments."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ltx2.quality.audio_metrics import Sound, SoundAtSeam, measure_sound
from ltx2.quality.levels import Levels, LevelStep, is_flat, levels_of, step_between
from ltx2.quality.shape_continuity import ShapeAtSeam, across, appeared, colour_change, pairs
from ltx2.quality.shape_tracking import Track, track
from ltx2.timeline import SegmentTiming, film_frames, film_samples, sound_spans

CHANGE_FACTOR, CHANGE_SLACK = 1.5, 1.0
JUMP_FACTOR, JUMP_SLACK = 1.5, 1.0
CLICK_FACTOR, CLICK_SLACK = 1.5, 0.01
LOUDNESS_FACTOR, LOUDNESS_SLACK_DB, MOST_DB_ABOVE = 1.5, 3.0, 4.0
MOST_SEMITONES = 1.0
MOST_COLOUR = 45.0
LEVEL_FACTOR, LEVEL_SLACK = 1.5, 4.0
MOST_DRIFT = 10.0


@dataclass(frozen=True, slots=True)
class Seam:
    """One join: `segment`, counted from 0, begins at film frame `frame`. cut: whether it is meant to be visible.

    change: mean pixel difference at the join, 0..255. usual_change, largest_change: the median and the largest from
    frame to frame in both segments. levels, contrast: how levels and spreads of the channels change, see
    `ltx2.quality.levels`. shapes, new_shapes: those before, and how many appear, if both segments are simple pictures.
    """

    segment: int
    frame: int
    cut: bool
    change: float
    usual_change: float
    largest_change: float
    levels: LevelStep
    contrast: LevelStep
    shapes: tuple[ShapeAtSeam, ...]
    new_shapes: int
    sound: SoundAtSeam


@dataclass(frozen=True, slots=True)
class SegmentFigures:
    """Measures of one segment.

    first_frame: film frame with which it begins. changes: mean pixel difference from each frame to the next, `[T - 1]`.
    levels, spreads: of red, green and blue in each frame, `[T, 3]`. simple: whether shapes can be followed in its
    pictures. tracks: its shapes.
    """

    segment: int
    first_frame: int
    changes: NDArray[np.float64]
    levels: Levels
    spreads: Levels
    simple: bool
    tracks: list[Track]


@dataclass(frozen=True, slots=True)
class Continuity:
    """Measures of a film's segments and of the joins between them."""

    segments: list[SegmentFigures]
    seams: list[Seam]


def continuity(
    pieces: Iterable[NDArray[np.uint8]], sound: Sound, rate: int, timings: Sequence[SegmentTiming]
) -> Continuity:
    """Measure a film. At most two segments' frames are in memory at a time.

    pieces: per timing, the frames `[T, H, W, 3]` that the film shows of its clip. sound: `[C, n]`, `rate` samples per
    second.

    Raises:
        ValueError: the number of frames or samples does not match the timings.
    """
    samples = film_samples(film_frames(timings), timings[0].shape.fps, rate)
    if sound.shape[1] != samples:
        raise ValueError(f"{sound.shape[1]} samples of sound; these segments must have {samples}")
    spans, found, before = sound_spans(timings, rate), Continuity([], []), None
    for number, (timing, span, piece) in enumerate(zip(timings, spans, pieces, strict=True)):
        if len(piece) != timing.shown_frames:
            raise ValueError(f"{len(piece)} frames of segment {number}; it must have {timing.shown_frames}")
        earlier = found.segments[-1].tracks if found.segments and timing.continued else []
        first = timing.first_frame - timings[0].first_frame
        found.segments.append(_figures(number, first, piece, earlier))
        if before is not None:
            at_seam = measure_sound(sound, rate, span.film_start, span.film_start + span.fade_in)
            one, other = found.segments[-2:]
            found.seams.append(_seam(timing, one, other, np.stack([before, piece[0]]), at_seam))
        before = piece[-1]
    return found


def _figures(number: int, first_frame: int, frames: NDArray[np.uint8], earlier: Sequence[Track]) -> SegmentFigures:
    tracks = track(frames, [one.colour for one in earlier])
    return SegmentFigures(number, first_frame, _changes(frames), *levels_of(frames), tracks is not None, tracks or [])


def _seam(
    timing: SegmentTiming,
    one: SegmentFigures,
    other: SegmentFigures,
    frames: NDArray[np.uint8],
    sound: SoundAtSeam,
) -> Seam:
    inside = np.concatenate([one.changes, other.changes]) if len(one.changes) + len(other.changes) else np.zeros(1)
    size = (frames.shape[2], frames.shape[1])
    both_simple = one.simple and other.simple
    return Seam(
        segment=other.segment,
        frame=other.first_frame,
        cut=not timing.continued,
        change=float(_changes(frames)[0]),
        usual_change=float(np.median(inside)),
        largest_change=float(inside.max()),
        levels=step_between(one.levels, other.levels),
        contrast=step_between(one.spreads, other.spreads),
        shapes=across(one.tracks, other.tracks, size) if both_simple else (),
        new_shapes=appeared(one.tracks, other.tracks) if both_simple else 0,
        sound=sound,
    )


def _changes(frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean pixel difference from each frame to the next, `[T - 1]`."""
    return np.array(
        [np.abs(after.astype(np.int16) - before).mean() for before, after in itertools.pairwise(frames)], np.float64
    )


def join_between(
    timing: SegmentTiming, before: NDArray[np.uint8], after: NDArray[np.uint8], sound: SoundAtSeam
) -> Continuity:
    """Measure one join alone. timing: of the segment after it. before, after: frames `[T, H, W, 3]` on its sides."""
    one = _figures(timing.index - 1, 0, before, [])
    other = _figures(timing.index, len(before), after, one.tracks)
    return Continuity([one, other], [_seam(timing, one, other, np.stack([before[-1], after[0]]), sound)])


def excess(seam: Seam) -> float:
    """The largest measure of a join as a part of its bound: above 1, one is out of bounds."""
    sound, steps = seam.sound, (seam.levels, seam.contrast)
    parts = [
        seam.change / (CHANGE_FACTOR * seam.largest_change + CHANGE_SLACK),
        sound.click / (CLICK_FACTOR * sound.usual_click + CLICK_SLACK),
        abs(sound.loudness_step) / _most_loudness_step(sound),
        abs(sound.pitch_step) / MOST_SEMITONES,
    ]
    pairs_of = [pair for found in steps for pair in zip(found.step, found.usual, strict=True)]
    parts += [abs(step) / (LEVEL_FACTOR * usual + LEVEL_SLACK) for step, usual in pairs_of]
    parts += [shape.jump / (JUMP_FACTOR * shape.usual_jump + JUMP_SLACK) for shape in seam.shapes]
    return max(part for part in parts if not math.isnan(part))


def broken(found: Sequence[Seam]) -> list[str]:
    """Descriptions of all measures that are out of bounds at joins, except cuts."""
    return [f"segment {seam.segment}: {what}" for seam in found if not seam.cut for what in _broken(seam)]


def _broken(seam: Seam) -> list[str]:
    shapes = [what for number, shape in enumerate(seam.shapes, 1) for what in _shape(number, shape)]
    return _picture(seam) + shapes + _sound(seam.sound)


def _picture(seam: Seam) -> list[str]:
    wrong = []
    if seam.change > CHANGE_FACTOR * seam.largest_change + CHANGE_SLACK:
        wrong.append(f"the picture changes by {seam.change:.1f}, elsewhere by at most {seam.largest_change:.1f}")
    for what, found in (("brightness", seam.levels), ("contrast", seam.contrast)):
        if _is_step(found):
            wrong.append(f"the {what} steps by {_rgb(found.step)}, elsewhere by at most {max(found.usual):.1f}")
    if seam.new_shapes:
        wrong.append(f"{seam.new_shapes} shapes appear" if seam.new_shapes > 1 else "a shape appears")
    return wrong


def _is_step(found: LevelStep) -> bool:
    pairs_of = zip(found.step, found.usual, strict=True)
    return any(abs(step) > LEVEL_FACTOR * usual + LEVEL_SLACK for step, usual in pairs_of)


def _rgb(values: Sequence[float]) -> str:
    return ", ".join(f"{value:+.1f}" for value in values) + " (red, green, blue)"


def _shape(number: int, shape: ShapeAtSeam) -> list[str]:
    if shape.is_lost:
        return [f"shape {number} is gone"]
    wrong = []
    if shape.jump > JUMP_FACTOR * shape.usual_jump + JUMP_SLACK:
        wrong.append(f"shape {number} jumps {shape.jump:.1f} pixels, elsewhere it moves {shape.usual_jump:.1f}")
    if shape.turned:
        wrong.append(f"shape {number} turns or stops")
    return wrong + _looks(number, shape.colour_change, shape.kinds)


def _looks(number: int, change: float, kinds: tuple[str, str]) -> list[str]:
    wrong = []
    if change > MOST_COLOUR:
        wrong.append(f"shape {number} changes its colour by {change:.0f}")
    if all(kinds) and len(set(kinds)) > 1:
        wrong.append(f"shape {number} changes from {kinds[0]} to {kinds[1]}")
    return wrong


def _sound(sound: SoundAtSeam) -> list[str]:
    wrong = []
    if sound.click > CLICK_FACTOR * sound.usual_click + CLICK_SLACK:
        wrong.append(f"the sound clicks: a step of {sound.click:.3f}, elsewhere at most {sound.usual_click:.3f}")
    if abs(sound.loudness_step) > _most_loudness_step(sound):
        usual = sound.usual_loudness_step
        wrong.append(f"the loudness steps by {sound.loudness_step:+.1f} dB, elsewhere by at most {usual:.1f} dB")
    if abs(sound.pitch_step) > MOST_SEMITONES:
        wrong.append(f"the pitch steps by {sound.pitch_step:+.1f} semitones")
    if set(sound.tones) == {0.0, 1.0}:
        wrong.append("the tone is gone" if sound.tones[0] else "a tone appears")
    return wrong


def _most_loudness_step(sound: SoundAtSeam) -> float:
    usual = sound.usual_loudness_step
    return min(LOUDNESS_FACTOR * usual + LOUDNESS_SLACK_DB, usual + MOST_DB_ABOVE)


def not_kept(found: Continuity) -> list[str]:
    """Descriptions of what differs between the first and the last segment of each part between cuts.

    Shapes are compared. Levels and spreads are not, because a fade changes them: their steps at the joins are added up.
    """
    begins = [0, *(index for index, seam in enumerate(found.seams, 1) if seam.cut), len(found.segments)]
    wrong = []
    for begin, end in itertools.pairwise(begins):
        first, last, joins = found.segments[begin], found.segments[end - 1], found.seams[begin : end - 1]
        what = _compared(first.tracks, last.tracks) if first.simple and last.simple else []
        what += _drift("brightness", [seam.levels for seam in joins])
        what += _drift("contrast", [seam.contrast for seam in joins])
        wrong += [f"segment {last.segment}: {text}, compared with segment {first.segment}" for text in what]
    return wrong


def of_one_colour(found: Continuity) -> list[str]:
    """Descriptions of segments all of whose pictures have one colour, if the picture gets it, or loses it, at a join.

    Cuts are joins, too. What fades to black before such a segment, or from black after it, is no fault.
    """
    wrong = []
    for flat, group in itertools.groupby(found.segments, lambda segment: is_flat(segment.spreads)):
        run = list(group)
        edges = [seam for seam in found.seams if seam.segment in (run[0].segment, run[-1].segment + 1)]
        if flat and any(_is_step(seam.contrast) or _is_step(seam.levels) for seam in edges):
            wrong += [f"segment {one.segment}: {_colour(one)}, unlike the pictures around it" for one in run]
    return wrong


def _colour(segment: SegmentFigures) -> str:
    red, green, blue = segment.levels.mean(0).round().astype(int).tolist()
    return f"all of it has one colour (red {red}, green {green}, blue {blue})"


def _drift(what: str, joins: Sequence[LevelStep]) -> list[str]:
    """Whether steps that are too small for any join add up by more than MOST_DRIFT, and more than they do at random."""
    small = [one for one in joins if not _is_step(one)]
    total = np.sum([one.excess for one in small], axis=0) if small else np.zeros(3)
    at_random = np.sqrt(np.sum([np.square(one.usual) for one in small], axis=0)) if small else np.zeros(3)
    if (np.abs(total) <= MOST_DRIFT + at_random).all():
        return []
    return [f"the {what} has drifted by {_rgb(total.tolist())} at {len(small)} joins"]


def _compared(first: Sequence[Track], last: Sequence[Track]) -> list[str]:
    wrong = []
    for number, (one, other) in enumerate(pairs(first, last), 1):
        if other is None:
            wrong.append(f"shape {number} is gone")
        else:
            wrong += _looks(number, colour_change(one, other), (one.kind, other.kind))
    return wrong
