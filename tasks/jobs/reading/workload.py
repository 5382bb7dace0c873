"""How much work of the queue of segments is given out: claimed, or waiting in a message."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import redis

from tasks.jobs.keys import job_keys
from tasks.jobs.queues import SEGMENTS, queue_of
from tasks.jobs.records import DAMAGE
from tasks.jobs.units import WorkUnit


@dataclass(frozen=True, slots=True)
class Workload:
    """Units of the queue of segments. held: claimed. queued: with a message that nobody has claimed."""

    held: int = 0
    queued: int = 0


def read_workload(client: redis.Redis, job_ids: Sequence[str]) -> Workload:
    """The workload of these jobs together; damaged units are left out."""
    with client.pipeline(transaction=False) as pipe:
        for job_id in job_ids:
            pipe.hgetall(job_keys(job_id, "units")[0])
        replies = pipe.execute(raise_on_error=False)
    held = queued = 0
    for reply in replies:
        for name, data in reply.items() if isinstance(reply, dict) else ():
            try:
                unit = cast("dict[str, Any]", json.loads(data))
                if queue_of(WorkUnit.parse(name.decode(), unit["index"])) != SEGMENTS:
                    continue
                is_held, is_announced = bool(unit["token"]), bool(unit["announced"])
            except DAMAGE:
                continue
            held += is_held
            queued += is_announced and not is_held
    return Workload(held, queued)
