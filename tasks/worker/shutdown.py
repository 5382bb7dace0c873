"""The shutdown flag: shared memory in which a worker tells its forked children that it takes no more work."""

from __future__ import annotations

import mmap


class ShutdownFlag:
    """Set once by the worker's main process, read by its children."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 1)

    def reset(self) -> None:
        """Start a worker: use memory that no other process shares. Call it before the worker forks."""
        self._memory = mmap.mmap(-1, 1)

    def set(self) -> None:
        """From now on this worker takes no more work."""
        self._memory[0] = 1

    def is_set(self) -> bool:
        """Whether this process' worker is shutting down."""
        return bool(self._memory[0])
