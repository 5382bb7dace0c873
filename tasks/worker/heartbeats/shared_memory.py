"""Memory that a worker's main process shares with its forked children: shutdown, loads, host fault, blob server."""

from __future__ import annotations

import mmap
import struct

TEXT_BYTES = 4096
SECONDS = struct.Struct("=d")


class SharedMemory:
    """Some bytes that a process shares with the children that it forks, at first all zero."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._memory = mmap.mmap(-1, size)

    def reset(self) -> None:
        """Start a worker: use memory that no other process shares. Call it before the worker forks."""
        self._memory = mmap.mmap(-1, self._size)


class ShutdownFlag(SharedMemory):
    """Set once by the worker's main process, read by its children."""

    def __init__(self) -> None:
        super().__init__(1)

    def set(self) -> None:
        """From now on this worker takes no more work."""
        self._memory[0] = 1

    def is_set(self) -> bool:
        """Whether this process' worker is shutting down."""
        return bool(self._memory[0])


class LoadCount(SharedMemory):
    """How many children began to load the default model since one last succeeded."""

    def __init__(self) -> None:
        super().__init__(1)

    def begin(self) -> int:
        """This child begins to load; returns how many others did before it, and neither succeeded nor reported why."""
        others = self._memory[0]
        self._memory[0] = min(others + 1, 255)
        return others

    def succeed(self) -> None:
        """This child has loaded the model, so this host can."""
        self._memory[0] = 0


class SharedText(SharedMemory):
    """A text that a child writes and the worker's main process reads, such as its host's fault or its render class."""

    def __init__(self) -> None:
        super().__init__(TEXT_BYTES)

    @property
    def text(self) -> str:
        """The text, empty until one is written; a long one is cut."""
        return bytes(self._memory).partition(b"\0")[0].decode(errors="replace")

    @text.setter
    def text(self, text: str) -> None:
        self._memory[:] = text.encode()[: TEXT_BYTES - 1].ljust(TEXT_BYTES, b"\0")


class BlobOutage(SharedMemory):
    """For how long the blob server cannot be used from this host: written by the main process, read by its children."""

    def __init__(self) -> None:
        super().__init__(SECONDS.size)

    @property
    def seconds(self) -> float:
        """From the first failed attempt to use it to the newest one; 0 if the newest one succeeded."""
        return float(SECONDS.unpack(self._memory[:])[0])

    @seconds.setter
    def seconds(self, seconds: float) -> None:
        self._memory[:] = SECONDS.pack(seconds)
