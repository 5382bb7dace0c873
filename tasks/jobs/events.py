"""Events: what became of jobs, in Redis streams that the scripts write. They are trimmed, and go with their job."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, cast

import redis

from tasks.jobs.keys import EVENTS, job_keys

EVENT_ID = re.compile(r"[0-9]{1,19}(-[0-9]{1,19})?")
BEGINNING = "0"
"""The event id before all others."""


class EventKind(StrEnum):
    """What happened to a job."""

    ACCEPTED = "accepted"
    QUEUED = "queued"
    LOADING = "loading"
    STEP = "step"
    SEGMENT = "segment"
    CLIP = "clip"
    TAKE = "take"
    CHOSEN = "chosen"
    REWOUND = "rewound"
    ATTEMPT = "attempt"
    PAUSED = "paused"
    RESUMED = "resumed"
    RETRIED = "retried"
    APPENDED = "appended"
    REPLACED = "replaced"
    APPROVED = "approved"
    CLOSED = "closed"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ends_job(self) -> bool:
        """Whether the job has ended with it."""
        return self in (EventKind.DONE, EventKind.FAILED, EventKind.CANCELLED)


class LostAttempt(StrEnum):
    """What became of an attempt that came to nothing, `why` of an event of kind ATTEMPT."""

    FAILED = "failed"
    DIED = "died"
    """The process of its holder died."""
    VANISHED = "vanished"
    """Its lease ended, and its worker said nothing."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event. data: by kind, such as the segment, or the reason.

    id: its place in the stream it was read from. id_in_job: its place in the stream of its job.
    """

    id: str
    job_id: str
    id_in_job: str
    kind: EventKind
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def at(self) -> float:
        """When it happened, in seconds since the epoch by Redis' clock."""
        return int(self.id_in_job.partition("-")[0]) / 1000


def is_later(event_id: str, than: str) -> bool:
    """Whether an event comes after another one of the same stream."""
    return _place(event_id) > _place(than)


def _place(event_id: str) -> tuple[int, int]:
    time_ms, _, number = event_id.partition("-")
    return int(time_ms), int(number or 0)


class EventReader:
    """The events of one deployment."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def after(
        self, event_id: str, *, job_id: str | None = None, count: int = 1000, wait_s: float | None = None
    ) -> list[Event]:
        """The next events after this one, of a job or of all jobs, oldest first; at most `count`.

        event_id: BEGINNING for all that are kept. wait_s: if there is none, wait so long for one.

        Raises:
            ValueError: `event_id` is not the id of an event.
        """
        if not EVENT_ID.fullmatch(event_id):
            raise ValueError(f"{event_id!r:.60} is not the id of an event")
        key = EVENTS if job_id is None else job_keys(job_id, "events")[0]
        block = None if wait_s is None else max(1, int(wait_s * 1000))
        while True:
            reply = cast("list[Any]", self._redis.xread({key: event_id}, count=count, block=block))
            entries = [entry for _, entries in reply for entry in entries]
            events = [event for entry_id, fields in entries if (event := _event(entry_id, fields, job_id))]
            if events or not entries:
                return events
            event_id = entries[-1][0].decode()  # only unknown ones: go past them, or the caller reads them for ever

    def newest_id(self, job_id: str | None = None) -> str:
        """The id of the newest event of a job or of all jobs, or BEGINNING."""
        key = EVENTS if job_id is None else job_keys(job_id, "events")[0]
        found = cast("list[Any]", self._redis.xrevrange(key, count=1))
        return found[0][0].decode() if found else BEGINNING


def _event(event_id: bytes, fields: Mapping[bytes, bytes], job_id: str | None) -> Event | None:
    """The event in an entry; None: of a kind that this version does not know, or damaged."""
    try:
        kind, data = EventKind(fields[b"kind"].decode()), json.loads(fields[b"data"])
        found = event_id.decode()
        if not isinstance(data, dict):
            return None
        if job_id is not None:
            return Event(found, job_id, found, kind, data)
        id_in_job = fields[b"id"].decode()
        return Event(found, fields[b"job"].decode(), id_in_job, kind, data) if EVENT_ID.fullmatch(id_in_job) else None
    except (KeyError, ValueError, RecursionError):
        return None
