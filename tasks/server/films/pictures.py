"""Pictures of a film for lists and pages: a thumbnail, and a sheet of small ones."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import BinaryIO, cast

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ltx2.errors import MediaError
from ltx2.media.container import media_errors

THUMBNAIL_PIXELS, SHEET_PIXELS = 512, 240
SHEET_COLUMNS = SHEET_ROWS = 5
CHANGE_PIXELS = 64


def thumbnail(film: BinaryIO) -> bytes:
    """The first picture of a film or clip as WebP, within THUMBNAIL_PIXELS. MediaError: it cannot be read."""
    picture = Image.fromarray(_frames(film, 1)[0])
    picture.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    return _saved(picture, "WEBP")


def spritesheet(film: BinaryIO) -> bytes:
    """25 pictures over the whole film as JPEG, in rows from the upper left. MediaError: it cannot be read."""
    frames = _frames(film, SHEET_COLUMNS * SHEET_ROWS)
    small = Image.fromarray(frames[0])
    small.thumbnail((SHEET_PIXELS, SHEET_PIXELS))
    width, height = small.size
    sheet = Image.new("RGB", (width * SHEET_COLUMNS, height * SHEET_ROWS))
    for place, frame in enumerate(frames):
        row, column = divmod(place, SHEET_COLUMNS)
        sheet.paste(Image.fromarray(frame).resize((width, height)), (column * width, row * height))
    return _saved(sheet, "JPEG")


def changes(clips: Sequence[BinaryIO]) -> NDArray[np.float64]:
    """The mean change of the picture from frame to frame in the last of these clips, 0 to 255.

    clips: one, or two that follow each other: then the first change is that at their join.
    """
    found: list[float] = []
    last: NDArray[np.int16] | None = None
    for clip in clips:
        found.clear()
        with media_errors("the clip cannot be read"), av.open(clip, "r", format="mp4") as container:
            for frame in container.decode(video=0):
                small = frame.reformat(width=CHANGE_PIXELS, height=CHANGE_PIXELS, format="gray").to_ndarray()
                picture = small.astype(np.int16)
                if last is not None:
                    found.append(float(np.abs(picture - last).mean()))
                last = picture
    return np.array(found)


def change_curve(values: NDArray[np.float64], width: int = 160, height: int = 32) -> bytes:
    """A curve as SVG; its first point is marked."""
    top = max(float(values.max(initial=0)), 1.0)
    steps = max(1, len(values) - 1)
    points = [(2 + i / steps * (width - 4), height - 2 - v / top * (height - 4)) for i, v in enumerate(values)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dot = f'<circle cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}" r="2" fill="#ec7a3c"/>' if points else ""
    drawn = f'<polyline points="{line}" fill="none" stroke="#7a8ad0"/>{dot}'
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{drawn}</svg>'.encode()


def _frames(film: BinaryIO, count: int) -> list[NDArray[np.uint8]]:
    """`count` pictures at equal distances, the first one first."""
    with media_errors("the film cannot be read"), av.open(film, "r", format="mp4") as container:
        stream = container.streams.video[0]
        wanted = [index * stream.frames // count for index in range(count)]
        found: list[NDArray[np.uint8]] = []
        for number, frame in enumerate(container.decode(stream)):
            while len(found) < count and wanted[len(found)] <= number:
                found.append(cast("NDArray[np.uint8]", frame.to_ndarray(format="rgb24")))
            if len(found) == count:
                return found
    raise MediaError(f"the film has only {len(found)} pictures")


def _saved(picture: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, quality=85)
    return file.getvalue()
