"""How well a finished film's segments join, as files: figures, a chart and a contact sheet."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ltx2.timeline import SegmentTiming


def write_continuity(data: bytes, timings: list[SegmentTiming], folder: Path) -> list[str]:
    """Measure the film `data` of these segments; write seams.json, seams.png and sheet.png into `folder`.

    Returns what is wrong at joins, in words; an empty list for a film without seams.

    Raises:
        MediaError: the film cannot be read. OutputError: a file cannot be written.
    """
    # here, since they take NumPy and PyAV, which most commands do without
    from ltx2.chart import chart, contact_sheet, panels, samples_of
    from ltx2.seams import broken, continuity
    from ltx2.viewing import film_pieces, film_sound
    from tasks.output import make_folder, write_whole

    make_folder(folder)
    fps = float(timings[0].shape.fps)
    sound, rate = film_sound(data, timings)
    pictures: list[Any] = []

    def seen() -> Iterator[Any]:
        for piece in film_pieces(data, timings):
            pictures.append(samples_of(piece))
            yield piece

    found = continuity(seen(), sound, rate, timings)
    wrong = broken(found.seams)
    figures = {"broken": wrong, "seams": [_finite(asdict(seam)) for seam in found.seams]}
    write_whole(
        {
            folder / "seams.json": (json.dumps(figures, indent=2) + "\n").encode(),
            folder / "seams.png": chart(panels(found, sound, rate, fps), found, fps),
            folder / "sheet.png": contact_sheet(pictures),
        }
    )
    return wrong


def _finite(value: Any) -> Any:
    """`value` with None for what is not a number, which JSON cannot say."""
    if isinstance(value, dict):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
