"""The values of the model of the job protocol: units, messages, what is due; see `job_model`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


def repair_unit(index: int) -> str:
    return f"repair:{index}"


def clip_unit(index: int) -> str:
    return f"clip:{index}"


class Message(NamedTuple):
    """A message, or a publisher's view of one; `ticket` 0: no message yet."""

    job_id: str
    unit: str
    index: int
    ticket: int


class Due(NamedTuple):
    """An entry of a survey, with the fields of `tasks.jobs.records.Need`."""

    unit: str
    index: int
    why: str
    stamp: int
    ticket: int


class Ending(NamedTuple):
    """Why and where a job failed."""

    reason: str | None = None
    segment: int | None = None
    attempts: int | None = None


@dataclass
class Queue:
    """The newest stamp of one queue, and the newest that was claimed."""

    stamp: int = 0
    claimed: int = 0


class Lost(NamedTuple):
    """A claim that expired inside the engine."""

    holder: int
    ticket: int
    node: str


@dataclass
class Unit:
    """A unit of work.

    sent: its newest message may still be delivered. sticky: that message is in a sticky queue.
    """

    index: int
    ticket: int = 0
    stamp: int = 0
    sent: bool = False
    sticky: bool = False
    sticky_expired: bool = False
    holder: int = 0
    worker: str = ""
    node: str = ""
    vanished: list[Lost] = field(default_factory=list)
    expired: bool = False
    engine: bool = False
    attempts: int = 0
    after: str = ""
    from_take: int = 0
    step: int | None = None
