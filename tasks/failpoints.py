"""Named points in the life of a job's work. Nothing happens at them, unless a test listens to break something there.

A process may end between any two of them, and the job must come out the same; `tests/faults` tries every one.
"""

from __future__ import annotations

from collections.abc import Callable

Listener = Callable[[str, str, int], None]

POINTS = (
    # a segment, first to last
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
    # a clip, beside its segment or made again
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


def reach(point: str, job_id: str, index: int) -> None:
    """Say that the work on segment `index` of a job (-1 for its film) has come to `point`."""
    for listener in _listeners:
        listener(point, job_id, index)


def listen(listener: Listener) -> None:
    """Call `listener` with point, job id and segment index at every point that this process reaches."""
    _listeners.append(listener)
