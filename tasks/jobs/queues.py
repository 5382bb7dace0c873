"""Names of the queues."""

from __future__ import annotations

from tasks.jobs.records import FILM_UNIT, clip_unit

SEGMENTS, CLIPS, FILMS = QUEUES = ("segments", "clips", "films")
OWN = f"{SEGMENTS}@"


def queue_of(unit: str) -> str:
    """The queue in which messages about the unit of this name wait."""
    if unit == FILM_UNIT:
        return FILMS
    return CLIPS if unit.startswith(clip_unit(0)[:-1]) else SEGMENTS
