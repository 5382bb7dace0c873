"""Memory that a worker shares with its forked children: shutdown, loads, a child's host fault, the blob server."""

from __future__ import annotations

import mmap
import struct

HOST_FAULT_BYTES = 4096
SECONDS = struct.Struct("=d")


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


class LoadCount:
    """How many children began to load the default model since one last succeeded."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 1)

    def reset(self) -> None:
        """Start a worker: use memory that no other process shares. Call it before the worker forks."""
        self._memory = mmap.mmap(-1, 1)

    def begin(self) -> int:
        """This child begins to load; returns how many others did before it, and neither succeeded nor reported why."""
        others = self._memory[0]
        self._memory[0] = min(others + 1, 255)
        return others

    def succeed(self) -> None:
        """This child has loaded the model, so this host can."""
        self._memory[0] = 0


class HostFault:
    """Why this host cannot render: reported once by a child, read by the worker's main process, which then stops."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, HOST_FAULT_BYTES)

    def reset(self) -> None:
        """Start a worker: use memory that no other process shares. Call it before the worker forks."""
        self._memory = mmap.mmap(-1, HOST_FAULT_BYTES)

    def report(self, reason: str) -> None:
        """Report the fault; a long reason is cut."""
        encoded = reason.encode()[: HOST_FAULT_BYTES - 1]
        self._memory[: len(encoded)] = encoded

    @property
    def reason(self) -> str:
        """The reported reason, empty while there is none."""
        return bytes(self._memory).partition(b"\0")[0].decode(errors="replace")


class BlobOutage:
    """For how long the blob server cannot be used from this host: written by the main process, read by its children."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, SECONDS.size)

    def reset(self) -> None:
        """Start a worker: use memory that no other process shares. Call it before the worker forks."""
        self._memory = mmap.mmap(-1, SECONDS.size)

    @property
    def seconds(self) -> float:
        """From the first failed attempt to use it to the newest one; 0 if the newest one succeeded."""
        return float(SECONDS.unpack(self._memory[:])[0])

    @seconds.setter
    def seconds(self, seconds: float) -> None:
        self._memory[:] = SECONDS.pack(seconds)
