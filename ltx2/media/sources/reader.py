"""Reads a user's video or sound in a child process, with limits of memory and processor time."""

from __future__ import annotations

import json
import os
from typing import IO

import numpy as np

from ltx2.media.limited_child import decode_in_child
from ltx2.media.sources.excerpts import Excerpt, Wanted
from ltx2.media.sources.whole import WantedParts
from ltx2.state.png import Frame

VIDEO_MEMORY_BYTES = 2 * 2**30
VIDEO_SECONDS = 60.0
ENCODING_SECONDS = 3600.0
BYTES_PER_SECOND = 64 * 2**20
"""A file may take VIDEO_SECONDS of processor time, or ENCODING_SECONDS, and one more for each so many bytes."""


def read_ending(file: IO[bytes], wanted: Wanted) -> Excerpt:
    """The end of the video in the open file `file`, whatever its size.

    Raises:
        ValueError: not a video, damaged, too short, HDR, or it needs more memory or time than the limits.
    """
    return _read(file, "end", wanted)


def read_beginning(file: IO[bytes], wanted: Wanted) -> Excerpt:
    """The beginning of the video in the open file `file`. ValueError: as `read_ending`."""
    return _read(file, "beginning", wanted)


def _read(file: IO[bytes], which: str, wanted: Wanted) -> Excerpt:
    arguments = (
        which,
        wanted.width,
        wanted.height,
        wanted.fit.value,
        wanted.fps,
        wanted.frames,
        wanted.before_s,
        wanted.rate,
    )
    head, _, data = _decoded("ltx2.media.sources.excerpts", arguments, file).partition(b"\n")
    available, before, samples = json.loads(head)
    shape = (wanted.frames, wanted.height, wanted.width, 3)
    pixels = int(np.prod(shape))
    frames = np.frombuffer(data, np.uint8, pixels).reshape(shape).copy()
    sound = np.frombuffer(data, "<f4", 2 * samples, pixels).reshape(samples, 2).astype(np.float32)
    return Excerpt(frames, sound, available, before)


def read_first_frame(file: IO[bytes], width: int, height: int) -> Frame:
    """The first frame of a video as a start image, uint8 `(height, width, 3)`. ValueError: as `read_ending`."""
    pixels = _decoded("ltx2.media.sources.excerpts", ("first", width, height), file)
    return np.frombuffer(pixels, np.uint8).reshape(height, width, 3).copy()


def read_track(file: IO[bytes]) -> bytes:
    """The sound of the file `file`, a sound or a video, as FLAC; see `track`.

    Raises:
        ValueError: another kind of file, no sound, damaged, or it needs more memory or time than the limits.
    """
    return _decoded("ltx2.media.sources.track", (), file)


def encode_video(file: IO[bytes], wanted: WantedParts) -> list[bytes]:
    """The parts of a video with which a film begins or ends, as clips; none if a segment shows all of it.

    Raises:
        ValueError: as `read_ending`, or it is too long.
    """
    arguments = (
        wanted.width,
        wanted.height,
        wanted.fit.value,
        wanted.fps,
        wanted.overlap,
        wanted.crop_width,
        wanted.crop_height,
        wanted.after,
    )
    data = memoryview(_decoded("ltx2.media.sources.whole", arguments, file, seconds=ENCODING_SECONDS))
    parts, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4])
        parts.append(bytes(data[at + 4 : at + 4 + size]))
        at += 4 + size
    return parts


def _decoded(module: str, arguments: tuple[object, ...], file: IO[bytes], *, seconds: float | None = None) -> bytes:
    limit = (VIDEO_SECONDS if seconds is None else seconds) + os.fstat(file.fileno()).st_size / BYTES_PER_SECOND
    return decode_in_child(module, arguments, file, seconds=limit, memory_bytes=VIDEO_MEMORY_BYTES)
