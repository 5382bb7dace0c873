"""Names of the queues, which one carries the messages of a unit, and the priority of a job's messages."""

from __future__ import annotations

from enum import StrEnum

from tasks.jobs.units import UnitKind, WorkUnit

SEGMENTS, CLIPS, FILMS = QUEUES = ("segments", "clips", "films")
STICKY_PREFIX = f"{SEGMENTS}@"
"""A sticky queue is named after its worker."""
HIGH_PRIORITY = 9
"""The priority of Celery messages that are taken before all others; the others have none."""


class Priority(StrEnum):
    """The priority of a job, as stored and shown."""

    NORMAL = "normal"
    HIGH = "high"


def queue_of(unit: WorkUnit) -> str:
    """The queue of messages about `unit`."""
    return {UnitKind.FILM: FILMS, UnitKind.CLIP: CLIPS}.get(unit.kind, SEGMENTS)


def list_key(queue: str, priority: Priority = Priority.NORMAL) -> str:
    """The key of the Redis list with the messages of `queue` that have this priority; kombu names it."""
    return f"{queue}\x06\x16{HIGH_PRIORITY}" if priority == Priority.HIGH else queue
