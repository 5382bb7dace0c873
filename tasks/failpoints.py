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

_listeners: list[Listener] = []


def reach(failpoint: str, job_id: str, index: int) -> None:
    """Call all listeners: segment `index` of a job (-1: its film) is at `failpoint`."""
    for listener in _listeners:
        listener(failpoint, job_id, index)


def add_listener(listener: Listener) -> None:
    """Call `listener(failpoint, job_id, index)` at every failpoint of this process."""
    _listeners.append(listener)
