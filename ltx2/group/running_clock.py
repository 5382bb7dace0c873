"""A clock for processes that watch each other, which may all be stopped at once: by `docker pause`, or SIGSTOP."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class RunningClock:
    """Seconds in which this process ran. Who reads it must do so every `longest_s`: a longer gap counts as that.

    While all processes of a host are stopped, `time.monotonic` goes on. By that clock, all of them are overdue when
    they continue.
    """

    def __init__(self, longest_s: float, read: Callable[[], float] = time.monotonic) -> None:
        self._longest_s = longest_s
        self._read = read
        self._reading = threading.Lock()
        self._seen = read()
        self._ran = 0.0

    def now(self) -> float:
        """Seconds since this clock was made."""
        with self._reading:
            seen = self._read()
            self._ran += min(seen - self._seen, self._longest_s)
            self._seen = seen
            return self._ran
