"""Names of tasks and headers, and the sticky queue of a worker."""

from __future__ import annotations

from kombu import Queue

from tasks.jobs.queues import STICKY_PREFIX

SEGMENT_TASK, CLIP_TASK, FILM_TASK = "longtake.segment", "longtake.clip", "longtake.film"
TAKE_TASK = "longtake.take"
FORMAT_HEADER = "longtake_format"


def sticky_queue(worker: str) -> Queue:
    """The queue of segments that only this worker consumes: those whose state it holds in memory."""
    return Queue(f"{STICKY_PREFIX}{worker}")
