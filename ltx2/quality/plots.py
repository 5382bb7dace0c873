"""Plots of a film's continuity: curves with its joins, and a contact sheet."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ltx2.quality.audio_metrics import WINDOW_S, Sound, loudness, pitch
from ltx2.quality.continuity import Continuity

Curve = NDArray[np.float64]

_WIDTH, _HEIGHT, _LEFT, _TOP = 1200, 150, 70, 30  # of one panel and its margins, pixels
_INK, _FAINT, _JOIN, _CUT = (30, 30, 34), (226, 226, 230), (236, 160, 60), (210, 60, 60)
_COLOURS = ((44, 84, 204), (214, 48, 42), (52, 160, 72), (140, 64, 176))
_PER_SEGMENT = 6  # pictures of each segment on a contact sheet


@dataclass(frozen=True, slots=True)
class Panel:
    """One diagram: curves over time by name, each `[T, 2]` of seconds and values; NaN breaks a curve."""

    title: str
    curves: dict[str, Curve] = field(default_factory=dict)


def panels(found: Continuity, sound: Sound, rate: int, fps: float) -> list[Panel]:
    """Panels of frame-to-frame change, positions of shapes (if any), pitch and loudness of a film over time."""
    change = [np.stack([s.first_frame + 1 + np.arange(len(s.changes)), s.changes], 1) for s in found.segments]
    joins = np.array([(seam.frame, seam.change) for seam in found.seams]).reshape(-1, 2)
    moving = np.concatenate([*change, joins])
    drawn = [Panel("change from frame to frame, 0..255", {"change": _in_seconds(moving[moving[:, 0].argsort()], fps)})]
    positions = {
        f"shape {number + 1} {'xy'[axis]}": _in_seconds(_positions(found, number, axis), fps)
        for number in range(max(len(segment.tracks) for segment in found.segments))
        for axis in (0, 1)
    }
    if positions:
        drawn.append(Panel("positions, pixels", positions))
    step = round(WINDOW_S * rate / 2)
    starts = range(0, max(1, sound.shape[1] - 2 * step), step)
    windows = [(start / rate, sound[:, start : start + 2 * step]) for start in starts]
    drawn.append(Panel("pitch, Hz", {"pitch": np.array([(t, pitch(window, rate)) for t, window in windows])}))
    drawn.append(Panel("loudness, dB", {"loudness": np.array([(t, loudness(window)) for t, window in windows])}))
    return drawn


def chart(drawn: Sequence[Panel], found: Continuity, fps: float) -> bytes:
    """A PNG with the panels below each other, and a line at every join, red at cuts."""
    image = Image.new("RGB", (_WIDTH + 2 * _LEFT, len(drawn) * (_HEIGHT + 2 * _TOP)), "white")
    pen = ImageDraw.Draw(image)
    end = max(float(curve[-1, 0]) for panel in drawn for curve in panel.curves.values() if len(curve)) or 1.0
    for number, panel in enumerate(drawn):
        top = number * (_HEIGHT + 2 * _TOP) + _TOP
        for seam in found.seams:
            x = _LEFT + seam.frame / fps / end * _WIDTH
            pen.line([(x, top), (x, top + _HEIGHT)], fill=_CUT if seam.cut else _JOIN)
        _draw(pen, panel, top, end)
    return _png(image)


def contact_sheet(
    pictures: Sequence[Sequence[NDArray[np.uint8]]], *, labels: Sequence[str] = (), width: int = 160
) -> bytes:
    """A PNG with a row of small pictures per segment. labels: of the rows; by default they are numbered."""
    names = labels or [str(row) for row in range(len(pictures))]
    height = round(width * pictures[0][0].shape[0] / pictures[0][0].shape[1])
    columns, font = max(map(len, pictures)), ImageFont.load_default(14)
    left = max(_LEFT // 2, *(math.ceil(font.getlength(name)) + 12 for name in names))
    sheet = Image.new("RGB", (left + columns * (width + 4), len(pictures) * (height + 4)), "white")
    pen = ImageDraw.Draw(sheet)
    for row, (name, line) in enumerate(zip(names, pictures, strict=True)):
        pen.text((6, row * (height + 4) + height // 2 - 8), name, fill=_INK, font=font)
        for column, picture in enumerate(line):
            small = Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS)
            sheet.paste(small, (left + column * (width + 4), row * (height + 4)))
    return _png(sheet)


def samples_of(piece: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Some frames of a segment for a contact sheet, with the first and the last."""
    indices = np.unique(np.linspace(0, len(piece) - 1, _PER_SEGMENT).round().astype(int))
    return [piece[index] for index in indices]


def _positions(found: Continuity, number: int, axis: int) -> Curve:
    parts = []
    for segment in found.segments:
        if number < len(segment.tracks):
            values = segment.tracks[number].centres[:, axis]
            parts.append(np.stack([segment.first_frame + np.arange(len(values)), values], 1))
        gap = np.array([(segment.first_frame + len(segment.changes) + 0.9, np.nan)])
        parts.append(gap)
    return np.concatenate(parts)


def _in_seconds(curve: Curve, fps: float) -> Curve:
    return np.asarray(curve / np.array([fps, 1.0]))


def _draw(pen: ImageDraw.ImageDraw, panel: Panel, top: int, end: float) -> None:
    values = np.concatenate([curve[:, 1] for curve in panel.curves.values()])
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    spread = (high - low) or 1.0
    font = ImageFont.load_default(13)
    pen.rectangle([_LEFT, top, _LEFT + _WIDTH, top + _HEIGHT], outline=_FAINT)
    for value, y in ((high, top), (low, top + _HEIGHT - 14)):
        pen.text((6, y), f"{value:.4g}", fill=_INK, font=font)
    left = _LEFT
    for name, colour in zip(panel.curves, _COLOURS, strict=False):
        text = panel.title if len(panel.curves) == 1 else f"{panel.title}: {name}" if left == _LEFT else name
        pen.text((left, top - 18), text, fill=colour, font=font)
        left += round(pen.textlength(text, font)) + 20
    for curve, colour in zip(panel.curves.values(), _COLOURS, strict=False):
        across = _LEFT + curve[:, 0] / end * _WIDTH
        down = top + _HEIGHT * (1 - (curve[:, 1] - low) / spread)
        for run in np.split(np.stack([across, down], 1), np.flatnonzero(np.isnan(down))):
            points = [(float(px), float(py)) for px, py in run if np.isfinite(py)]
            if len(points) > 1:
                pen.line(points, fill=colour, width=2)


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()
