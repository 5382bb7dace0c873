"""Writes files, each completely or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tasks.errors import OutputError


@contextmanager
def private_files() -> Iterator[None]:
    """Let only this user read the files and folders that are made in this block, by this process and its children."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def make_folder(folder: Path) -> None:
    """Create `folder` unless it exists.

    Raises:
        OutputError: it cannot be created, or a file has its name.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise OutputError(f"cannot create folder {folder}: a file with that name exists") from None
    except OSError as error:
        raise OutputError(f"cannot create folder {folder}: {error.strerror or error}") from None


def write_new(path: Path, data: bytes, *, overwrite: bool) -> None:
    """Write a file that does not exist yet, or also one that does, with `overwrite`.

    Raises:
        OutputError: it exists, or cannot be written.
    """
    check_new(path, overwrite=overwrite)
    make_folder(path.parent)
    write_whole({path: data})


def check_new(path: Path, *, overwrite: bool) -> None:
    """Refuse a file that exists, unless it may be overwritten.

    Raises:
        OutputError: it exists, or its folder cannot be read.
    """
    with naming_errors(path):
        exists = path.exists()
    if exists and not overwrite:
        raise OutputError(f"{path} exists; choose another name, or replace it with --force")


def write_whole(files: Mapping[Path, bytes], *, mode: int = 0o666) -> None:
    """Write all files or none. Each gets its name when all are on the disk, the first one last.

    mode: their permissions, less those that the user's umask takes away.

    Raises:
        OutputError: the disk is full, or a folder cannot be written; names the file.
    """
    with ExitStack() as stack:
        names = [(_write_temporary(path, data, mode, stack), path) for path, data in files.items()]
        for name, path in reversed(names):
            with naming_errors(path):
                os.replace(name, path)


def _write_temporary(path: Path, data: bytes, mode: int, stack: ExitStack) -> Path:
    """Write a temporary file next to `path` and return its name; `stack` deletes it."""
    with naming_errors(path):
        name = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        handle = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
        stack.callback(name.unlink, missing_ok=True)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    return name


@contextmanager
def naming_errors(path: Path) -> Iterator[None]:
    """Turn an OSError in this block into an OutputError that names `path`."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from None
