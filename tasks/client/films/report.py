"""Writes the continuity report of a film: figures, a chart and a contact sheet."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from ltx2.timeline import SegmentTiming
from tasks.client.files import make_folder, write_whole


def write_report(
    film: bytes,
    timings: list[SegmentTiming],
    folder: Path,
    *,
    takes_of: Callable[[int], Mapping[str, bytes]] = lambda _: {},
) -> list[str]:
    """Measure how well the segments of `film` join.

    Writes seams.json, seams.png and sheet.png into `folder`. takes_of: the clips of a segment's takes that the film
    does not show, by their names in the contact sheet, where they are below the segment.
    Returns faults at joins, leaps inside segments, what does not last, and segments of one colour, one sentence each;
    empty if there are none.

    Raises:
        MediaError: the film cannot be read. OutputError: a file cannot be written.
    """
    # imported here: they load NumPy and PyAV, which most commands do not need
    from ltx2.quality.continuity import broken, continuity, not_kept, of_one_colour
    from ltx2.quality.film_reader import clip_frames, film_pieces, film_sound
    from ltx2.quality.insides import insides, leaps
    from ltx2.quality.plots import chart, contact_sheet, panels, samples_of

    make_folder(folder)
    fps = float(timings[0].shape.fps)
    sound, rate = film_sound(film, timings)
    pictures: list[Any] = []
    labels: list[str] = []

    def sampled_pieces() -> Iterator[Any]:
        for number, piece in enumerate(film_pieces(film, timings)):
            others = takes_of(number)
            pictures.append(samples_of(piece))
            labels.append(f"{number}, shown" if others else str(number))
            for name, clip in others.items():
                pictures.append(samples_of(clip_frames(clip)))
                labels.append(name)
            yield piece

    measured = continuity(sampled_pieces(), sound, rate, timings)
    inside = insides(measured)
    wrong = broken(measured.seams) + leaps(inside) + not_kept(measured) + of_one_colour(measured)
    figures = _plain({"broken": wrong, "seams": measured.seams, "insides": inside, "segments": measured.segments})
    write_whole(
        {
            folder / "seams.json": (json.dumps(figures, indent=2) + "\n").encode(),
            folder / "seams.png": chart(panels(measured, sound, rate, fps), measured, fps),
            folder / "sheet.png": contact_sheet(pictures, labels=labels),
        }
    )
    return wrong


def _plain(value: Any) -> Any:
    """`value` as JSON data: four decimals, None for NaN and infinity."""
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    return value
