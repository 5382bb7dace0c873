"""Stamps of files: which tell whether a model on this machine was changed, without reading it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ltx2.checkpoints.full_weights import split_full

Stamp = tuple[str, int, int]
"""The path of a file in its folder, its size in bytes, and its modification time in ns."""


def stamps_of(named: str) -> list[Stamp] | None:
    """The stamps of all files of a model, a text encoder or an upsampler, in order; None for one that is not here.

    named: a folder, a file or a hub id, also with `#full`. Hidden folders, such as that of git, are left out.
    """
    here = Path(os.path.expanduser(split_full(named.replace("\0", ""))[0]))
    if here.is_file():
        return [stamp for stamp in [_stamp(here, here.name)] if stamp]
    return sorted(_in_folder(here)) if here.is_dir() else None


def _in_folder(folder: Path) -> Iterator[Stamp]:
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):  # a part may be a link to another model's
        real = os.path.realpath(place)
        if real in seen:  # a link to a folder that holds it
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            file = Path(place, name)
            stamp = _stamp(file, str(file.relative_to(folder)))
            if stamp:
                yield stamp


def _stamp(file: Path, name: str) -> Stamp | None:
    try:
        found = file.stat()
    except OSError:  # a link to nothing
        return None
    return name, found.st_size, found.st_mtime_ns
