"""Pictures of a film for lists and pages: a thumbnail, and a sheet of small ones."""

from __future__ import annotations

import io
from pathlib import Path
from typing import cast

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ltx2.errors import MediaError
from ltx2.media.container import media_errors

THUMBNAIL_PIXELS, SHEET_PIXELS = 512, 240
SHEET_COLUMNS = SHEET_ROWS = 5


def thumbnail(film: Path) -> bytes:
    """The film's first picture as WebP, at most THUMBNAIL_PIXELS wide and high. MediaError: it cannot be read."""
    picture = Image.fromarray(_frames(film, 1)[0])
    picture.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    return _saved(picture, "WEBP")


def spritesheet(film: Path) -> bytes:
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


def _frames(film: Path, count: int) -> list[NDArray[np.uint8]]:
    """`count` pictures at equal distances, the first one first."""
    with media_errors("the film cannot be read"), av.open(str(film), format="mp4") as container:
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
