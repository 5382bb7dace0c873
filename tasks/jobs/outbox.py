"""The outbox of webhooks: what is to be sent, when it is tried next, and what became of it. In Redis, for any server.

All times are of Redis' clock: the clocks of servers need not agree.

<prefix>outbox            zset    'job id, space, event id' by the time of the next attempt, ms
<prefix>outbox:place      string  the last event of all jobs that was looked at
<prefix>outbox:clock      string  when somebody looked for what is due last, ms
<prefix>outbox:lock       string  the server that sends now
<prefix>job:<id>:webhooks hash    event id -> JSON, see Delivery
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast

import redis
from pydantic import TypeAdapter

from blobstore.stored_format import FORMAT
from tasks.jobs.connection import server_time
from tasks.jobs.events import BEGINNING, EVENT_ID, Event
from tasks.jobs.keys import OUTBOX, OUTBOX_CLOCK, OUTBOX_LOCK, OUTBOX_PLACE, job_keys
from tasks.jobs.locks import ExpiringLock
from tasks.jobs.records import DAMAGE


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event that is to be sent. kind, data, at: of the event.

    attempts: how often it was tried. problem: why the last one failed. delivered_at: seconds since the epoch, None
    until then. given_up: it is not tried any more.
    """

    job_id: str
    event_id: str
    kind: str
    at: float
    data: Mapping[str, Any] = field(default_factory=dict)
    attempts: int = 0
    problem: str | None = None
    delivered_at: float | None = None
    given_up: bool = False

    @classmethod
    def of(cls, event: Event) -> Delivery:
        """The delivery of an event."""
        return cls(event.job_id, event.id_in_job, str(event.kind), event.at, dict(event.data))

    @property
    def is_over(self) -> bool:
        """Whether nothing is sent any more."""
        return self.given_up or self.delivered_at is not None


_DELIVERY = TypeAdapter(Delivery)


class Outbox:
    """The outbox of one deployment. Only the server that holds the lock sends."""

    def __init__(self, client: redis.Redis, token: str) -> None:
        """token: of this server, random."""
        self._redis = client
        self._lock = ExpiringLock(client, OUTBOX_LOCK, token)

    def lock(self, seconds: float) -> bool:
        """Take or keep the right to send, for so long."""
        return self._lock.hold(seconds)

    def unlock(self) -> None:
        """Leave the right to send to another server."""
        self._lock.release()

    def place(self) -> str:
        """The last event, in the stream of all jobs, that was looked at."""
        found = (cast("bytes | None", self._redis.get(OUTBOX_PLACE)) or b"").decode(errors="replace")
        return found if EVENT_ID.fullmatch(found) else BEGINNING  # damaged: events that were looked at change nothing

    def add(self, events: Iterable[Event], place: str) -> None:
        """Have these events sent as soon as possible, and go on after `place`. The same event again changes nothing."""
        now = self._now_ms()
        with self._redis.pipeline() as pipe:
            for event in events:
                delivery = Delivery.of(event)
                pipe.hsetnx(*self._field(delivery), self._packed(delivery))
                pipe.zadd(OUTBOX, {f"{delivery.job_id} {delivery.event_id}": now}, nx=True)
            pipe.set(OUTBOX_PLACE, place)
            pipe.execute()

    def due(self, count: int) -> list[Delivery]:
        """What is to be sent now, the longest due first: all of it, after the clock was set back."""
        now = self._now_ms()
        last = self._redis.set(OUTBOX_CLOCK, now, get=True)
        was_set_back = now < int(cast("bytes | None", last) or 0)
        late = cast("list[bytes]", self._redis.zrange(OUTBOX, now, "+inf", byscore=True)) if was_set_back else []
        if late:
            self._redis.zadd(OUTBOX, dict.fromkeys(late, now), xx=True)
        names = cast("list[bytes]", self._redis.zrange(OUTBOX, 0, now, byscore=True, offset=0, num=count))
        found = []
        for name in names:
            job_id, _, event_id = name.decode(errors="replace").partition(" ")
            packed = cast("bytes | None", self._redis.hget(job_keys(job_id, "webhooks")[0], event_id))
            delivery = None if packed is None else _unpacked(packed)
            if delivery is None or delivery.is_over:  # its job is gone, or it was sent before the server died
                self._redis.zrem(OUTBOX, name)
            else:
                found.append(delivery)
        return found

    def note(self, delivery: Delivery, *, problem: str | None, again_in_s: float | None) -> Delivery:
        """Record an attempt: delivered without a problem, else tried again after `again_in_s`, or given up (None)."""
        now = self._now_ms()
        noted = replace(delivery, attempts=delivery.attempts + 1, problem=problem)
        if problem is None:
            noted = replace(noted, delivered_at=now / 1000)
        elif again_in_s is None:
            noted = replace(noted, given_up=True)
        name = f"{delivery.job_id} {delivery.event_id}"
        with self._redis.pipeline() as pipe:
            pipe.hset(*self._field(delivery), self._packed(noted))
            if noted.is_over:
                pipe.zrem(OUTBOX, name)
            else:
                pipe.zadd(OUTBOX, {name: now + round((again_in_s or 0) * 1000)})
            pipe.execute()
        return noted

    def of_job(self, job_id: str) -> list[Delivery]:
        """What was sent, or is to be sent, of a job; oldest first."""
        packed = cast("dict[bytes, bytes]", self._redis.hgetall(job_keys(job_id, "webhooks")[0]))
        found = [delivery for value in packed.values() if (delivery := _unpacked(value)) is not None]
        return sorted(found, key=lambda delivery: delivery.at)

    def _now_ms(self) -> int:
        return int(server_time(self._redis) * 1000)

    @staticmethod
    def _field(delivery: Delivery) -> tuple[str, str]:
        return job_keys(delivery.job_id, "webhooks")[0], delivery.event_id

    @staticmethod
    def _packed(delivery: Delivery) -> str:
        return json.dumps({"format": FORMAT} | asdict(delivery))


def _unpacked(packed: bytes) -> Delivery | None:
    """The delivery; None: it is damaged."""
    try:
        return _DELIVERY.validate_json(packed)
    except DAMAGE:
        return None
