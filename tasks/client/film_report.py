"""How well a finished film's segments join, as files: figures, a chart and a contact sheet."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from ltx2.timeline import SegmentTiming


def write_continuity(data: bytes, timings: list[SegmentTiming], folder: Path) -> list[str]:
    """Measure the film `data` of these segments; write seams.json, seams.png and sheet.png into `folder`.

    Returns what is wrong at joins, and what is not kept to the end, in words; an empty list for a film without seams.

    Raises:
        MediaError: the film cannot be read. OutputError: a file cannot be written.
    """
    # here, since they take NumPy and PyAV, which most commands do without
    from ltx2.quality.continuity import broken, continuity, not_kept
    from ltx2.quality.film_reader import film_pieces, film_sound
    from ltx2.quality.plots import chart, contact_sheet, panels, samples_of
    from tasks.client.files import make_folder, write_whole

    make_folder(folder)
    fps = float(timings[0].shape.fps)
    sound, rate = film_sound(data, timings)
    pictures: list[Any] = []

    def seen() -> Iterator[Any]:
        for piece in film_pieces(data, timings):
            pictures.append(samples_of(piece))
            yield piece

    found = continuity(seen(), sound, rate, timings)
    wrong = broken(found.seams) + not_kept(found)
    figures = _plain({"broken": wrong, "seams": found.seams, "segments": found.segments})
    write_whole(
        {
            folder / "seams.json": (json.dumps(figures, indent=2) + "\n").encode(),
            folder / "seams.png": chart(panels(found, sound, rate, fps), found, fps),
            folder / "sheet.png": contact_sheet(pictures),
        }
    )
    return wrong


def _plain(value: Any) -> Any:
    """`value` as JSON can say it: None for what is not a number, and no more digits than anybody reads."""
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
