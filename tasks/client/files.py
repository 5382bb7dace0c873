"""Films on disk: written whole or not at all, with a report beside them."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tasks.errors import OutputError


def check_output(out: Path) -> None:
    """Make the folder of `out`, and see that a file can be written there.

    Raises:
        OutputError: it cannot; says why.
    """
    if out.is_dir():
        raise OutputError(f"{out} is a folder; name the film's file, as in -o {out / 'film.mp4'}")
    report = out.with_suffix(".json")
    if out == report:
        raise OutputError(f"{out} is where the report goes; name the film's file, as in -o {out.with_suffix('.mp4')}")
    for path in (out, report):
        if path.exists() and not path.is_file():
            raise OutputError(f"{path} is there and is no regular file")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except FileExistsError:
        raise OutputError(f"{out} cannot be written: {out.parent} is no folder") from None
    except OSError as error:
        raise OutputError(f"{out} cannot be written: {error.strerror or error}") from None


def write_film(out: Path, data: bytes, report: dict[str, Any]) -> Path:
    """Write the film to `out` and the report to `out` with the suffix .json, each whole or not at all.

    Raises:
        OutputError: the disk is full, or the folder cannot be written.
    """
    check_output(out)
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    write_whole({out: data, out.with_suffix(".json"): text.encode()})
    return out


def make_folder(folder: Path) -> None:
    """Make `folder` unless it is there.

    Raises:
        OutputError: it cannot be made, or is no folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be made a folder: {error.strerror or error}") from None


def write_whole(files: Mapping[Path, bytes]) -> None:
    """Write every file, or none: each gets its name when the bytes of all are on the disk.

    Raises:
        OutputError: the disk is full, or a folder cannot be written; names the file.
    """
    with ExitStack() as stack:
        names = [(_temporary(path, data, stack), path) for path, data in files.items()]
        for name, path in names:
            with _told(path):
                os.replace(name, path)


def _temporary(path: Path, data: bytes, stack: ExitStack) -> str:
    with _told(path):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        stack.callback(Path(name).unlink, missing_ok=True)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
    return name


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from None
