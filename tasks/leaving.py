"""Whether this worker is about to end: said by its main process, heard by its children."""

from __future__ import annotations

import mmap

# Memory that a child shares with the process from which it was forked.
_shared = [mmap.mmap(-1, 1)]


def begin() -> None:
    """Be a worker of which nothing is said yet, and no other process knows; before it has children."""
    _shared[0] = mmap.mmap(-1, 1)


def say() -> None:
    """From now on this worker takes no more work."""
    _shared[0][0] = 1


def is_said() -> bool:
    """Whether this process' worker has said so."""
    return bool(_shared[0][0])
