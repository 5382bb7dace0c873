"""Task names, and which queue carries what."""

from __future__ import annotations

from kombu import Queue

from tasks.jobs.queues import OWN

SEGMENT_TASK, CLIP_TASK, FILM_TASK = "longtake.segment", "longtake.clip", "longtake.film"


def sticky_queue(worker: str) -> Queue:
    """The queue of segments that the worker of this name alone takes: those whose state it holds."""
    return Queue(f"{OWN}{worker}")
