"""Locks that keep two renders apart; they end with their process."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.errors import JobStateError


@contextmanager
def locked(path: Path, what: str, *, folder: Path) -> Iterator[None]:
    """Hold the lock file `path` for `what`; `folder` has the render's data.

    Raises:
        JobStateError: another process holds it; names that process and its folder. OSError: it cannot be created.
    """
    while True:
        with path.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.seek(0)
                raise JobStateError(f"{what} is already being rendered by {file.read() or 'another process'}") from None
            if not _is_current(file.fileno(), path):
                continue  # its holder deleted it before this process had the lock
            file.truncate(0)
            file.write(f"process {os.getpid()}, with its data in {folder}")
            file.flush()
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is_current(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
