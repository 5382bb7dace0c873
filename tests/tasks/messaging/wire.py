"""Builders for the entries of broker queues, and for invalid variants of them."""

from __future__ import annotations

import base64
import copy
import json
import uuid
from typing import Any

from tasks.jobs.queues import SEGMENTS
from tasks.messaging.topology import SEGMENT_TASK

Path = tuple[str | int, ...]
ABSENT = Ellipsis


def message(
    *args: Any, task: str = SEGMENT_TASK, queue: str = SEGMENTS, kwargs: Any = None, embed: Any = None
) -> dict[str, Any]:
    """A message as Celery publishes it; the default job does not exist."""
    task_id = str(uuid.uuid4())
    arguments = list(args) or ["nojob", 0, 1, None]
    no_callbacks = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    return {
        "body": encoded([arguments, {} if kwargs is None else kwargs, no_callbacks if embed is None else embed]),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": task,
            "id": task_id,
            "shadow": None,
            "eta": None,
            "expires": None,
            "group": None,
            "group_index": None,
            "retries": 0,
            "timelimit": [None, None],
            "root_id": task_id,
            "parent_id": None,
            "argsrepr": "a title · segment 1 of 2",
            "kwargsrepr": "",
            "origin": "gen1@host",
            "ignore_result": None,
            "replaced_task_nesting": 0,
            "stamped_headers": None,
            "stamps": {},
        },
        "properties": {
            "correlation_id": task_id,
            "reply_to": str(uuid.uuid4()),
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        },
    }


def broadcast(body: Any, exchange: str, key: str = "", headers: dict[str, Any] | None = None) -> dict[str, Any]:
    """A remote control command or an event."""
    result = changed(message(), ("body",), encoded(body))
    result = changed(result, ("properties", "delivery_info"), {"exchange": exchange, "routing_key": key})
    return {**result, "headers": headers or {}}


def encoded(body: Any) -> str:
    """A message body: JSON in base64."""
    return base64.b64encode(json.dumps(body).encode()).decode()


def changed(message: dict[str, Any], path: Path, value: Any) -> dict[str, Any]:
    """A copy of `message` with `value` at `path`; ABSENT removes the key."""
    result = copy.deepcopy(message)
    *parents, last = path
    inner: Any = result
    for name in parents:
        inner = inner[name]
    if value is ABSENT:
        del inner[last]
    else:
        inner[last] = value
    return result
