"""Names of the queues, and which one carries the messages of a unit."""

from __future__ import annotations

from tasks.jobs.units import UnitKind, WorkUnit

SEGMENTS, CLIPS, FILMS = QUEUES = ("segments", "clips", "films")
STICKY_PREFIX = f"{SEGMENTS}@"
"""A sticky queue is named after its worker."""


def queue_of(unit: WorkUnit) -> str:
    """The queue of messages about `unit`."""
    return {UnitKind.FILM: FILMS, UnitKind.CLIP: CLIPS}.get(unit.kind, SEGMENTS)
