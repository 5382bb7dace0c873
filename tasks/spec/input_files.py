"""Reads the files that a user names: specs, states, images, videos, sound."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tasks.errors import SpecError
from tasks.field_errors import shown_path


def read_input(path: Path | str, limit_bytes: int, what: str, *, field: str = "") -> bytes:
    """The bytes of the regular file `path`. what: names its kind, with an article. field: goes before its path.

    Raises:
        SpecError: as `open_input`, or it is larger than the limit.
    """
    with open_input(path, field=field) as file:
        return read_limited(file, _named(path, field), limit_bytes, what)


@contextmanager
def open_input(path: Path | str, *, field: str = "") -> Iterator[BinaryIO]:
    """Open the regular file `path`. field: goes before its path in errors.

    A device or pipe is never read: it may have no end, or wait for ever.

    Raises:
        SpecError: it is missing, unreadable, or no regular file.
    """
    named = _named(path, field)
    if "\0" in str(path):
        raise SpecError(f"{named}: not the name of a file")
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            kind = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(kind):
                raise SpecError(f"{named}: {'Is a directory' if stat.S_ISDIR(kind) else 'not a regular file'}")
            yield file
    except OSError as error:
        raise SpecError(f"{named}: {error.strerror or error}") from None


def _named(path: Path | str, field: str) -> str:
    return f"{field}: {shown_path(path)}" if field else shown_path(path)


def read_limited(file: BinaryIO, named: str, limit_bytes: int, what: str) -> bytes:
    """The bytes of an open file. named: how errors name it. what: names its kind, with an article.

    Raises:
        SpecError: it is larger than the limit.
    """
    data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise SpecError(f"{named}: larger than {limit_bytes:,} bytes, the limit for {what}")
    return data
