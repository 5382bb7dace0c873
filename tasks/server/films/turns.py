"""Slow work of the server that is done one at a time, such as measuring a film."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tasks.server.http.answers import FAULT, Problem, RequestError

MOST_WAITING = 8
"""Requests that may wait for a turn: each has one of the 40 threads that answer all requests."""
_BUSY = Problem(503, "too many requests wait for it; try again", FAULT, "busy", headers={"Retry-After": "5"})


class Turns:
    """Gives the turns for one kind of work."""

    def __init__(self) -> None:
        self._working = threading.Lock()
        self._admitted = threading.BoundedSemaphore(1 + MOST_WAITING)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn. RequestError: too many wait already."""
        if not self._admitted.acquire(blocking=False):
            raise RequestError(_BUSY)
        try:
            with self._working:
                yield
        finally:
            self._admitted.release()
