"""Failpoints: named points in a job's work at which tests inject faults.

A failpoint does nothing unless a test adds a listener. A process may end between any two of them, and the film must
come out the same; `tests/faults` tries every one.
"""

from __future__ import annotations

from collections.abc import Callable

Listener = Callable[[str, str, int], None]

FAILPOINTS = (
    # a segment, in order
    "segment claimed",
    "segment hydrated",
    "state rendered",
    "state stored",
    "segment rendered",
    "segment stored",
    "segment committed",
    # a take, after the steps of a segment up to "segment stored"
    "take stored",
    "take committed",
    # any message: its ticket is reserved, it is in the queue, the record says so
    "message announced",
    "message sent",
    "message chained",
    # a clip, encoded in the background or as a unit of its own
    "clip encoded",
    "clip stored",
    "clip committed",
    # the film
    "film claimed",
    "film joined",
    "film stored",
    "film committed",
)


class Listeners:
    """Who is called at failpoints. Empty but in fault tests and benchmarks."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def reach(self, failpoint: str, job_id: str, index: int) -> None:
        """Call the listeners: the work on segment `index` of a job (-1: its film) has reached `failpoint`."""
        for listener in self._listeners:
            listener(failpoint, job_id, index)

    def add(self, listener: Listener) -> None:
        """Call `listener(failpoint, job_id, index)` at every failpoint that this process reaches from now on."""
        self._listeners.append(listener)

    def remove(self, listener: Listener) -> None:
        """Undo `add`."""
        self._listeners.remove(listener)


listeners = Listeners()
"""Those of this process."""
reach = listeners.reach
