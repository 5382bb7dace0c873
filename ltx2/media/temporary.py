"""Temporary files and folders that are locked while they are used, so that those of a killed process can be deleted."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """A folder among the system's temporary files, deleted at the end; abandoned ones of this prefix are deleted, too.

    The folder of temporary files is made again if it is gone: this process knows it by the name that it found first.

    Raises:
        OSError: it cannot be created.
    """
    os.makedirs(tempfile.gettempdir(), mode=0o700, exist_ok=True)
    delete_abandoned(prefix)
    with _locked(lambda: Path(tempfile.mkdtemp(prefix=prefix))) as folder:
        yield folder


@contextmanager
def partial_file(target: Path) -> Iterator[Path]:
    """An empty file next to `target`, to be renamed to it, else deleted; abandoned ones for `target` are deleted, too.

    Raises:
        OSError: it cannot be created.
    """
    # a hash, because a name that is longer than the target's may be too long
    prefix = f".{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}."

    def create() -> Path:
        path = target.with_name(f"{prefix}{uuid4().hex}.part")
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        return path

    delete_abandoned(prefix, target.parent)
    with _locked(create) as path:
        yield path


def delete_abandoned(prefix: str, folder: Path | None = None) -> None:
    """Delete what has this prefix and belongs to this user, but is not locked by a process.

    folder: default: that of the system's temporary files.
    """
    with suppress(OSError):
        for entry in os.scandir(folder or tempfile.gettempdir()):
            if entry.name.startswith(prefix) and entry.stat(follow_symlinks=False).st_uid == os.getuid():
                with suppress(OSError):  # locked, or deleted by another process
                    _delete_unlocked(Path(entry.path))


def _delete_unlocked(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _delete(path)
    finally:
        os.close(handle)


@contextmanager
def _locked(create: Callable[[], Path]) -> Iterator[Path]:
    """What `create` makes, locked until it is deleted. The system ends the lock with the process."""
    path, handle = _create_locked(create)
    try:
        yield path
    finally:
        _delete(path)
        os.close(handle)


def _create_locked(create: Callable[[], Path]) -> tuple[Path, int]:
    while True:
        path = create()
        with suppress(FileNotFoundError):  # another process deleted it before it was locked
            handle = os.open(path, os.O_RDONLY)
            fcntl.flock(handle, fcntl.LOCK_EX)
            if path.exists():
                return path, handle
            os.close(handle)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
