"""Whether this worker is about to end: said by its main process, heard by its children."""

from __future__ import annotations

import mmap

# Memory that a child shares with the process it was forked from.
_said = mmap.mmap(-1, 1)


def say() -> None:
    """From now on this worker takes no more work."""
    _said[0] = 1


def is_said() -> bool:
    """Whether this process' worker has said so."""
    return bool(_said[0])
