"""Hostile entries of queues and channels: each must be refused, and end no worker."""

from __future__ import annotations

import base64
import json
from typing import Any

from tasks.jobs.queues import CLIPS, FILMS, QUEUES, SEGMENTS
from tasks.messaging.schema import MESSAGE_LIMIT_BYTES
from tasks.messaging.topology import CLIP_TASK, FILM_TASK, SEGMENT_TASK, TAKE_TASK
from tests.ltx2.state.test_hostile import deep
from tests.tasks.messaging.wire import ABSENT, broadcast, changed, encoded, message

TOO_LARGE = 10**30
SIGNATURES = [{"task": FILM_TASK, "args": ["a", 1], "kwargs": {}, "options": {"queue": FILMS}, "immutable": True}]
COMMANDS, EVENTS = "/0.celery.pidbox", "/0.celeryev/worker.heartbeat"
PING = {"method": "ping", "arguments": {}}
EVENT = {"type": "worker-heartbeat", "hostname": "w@h", "timestamp": 1.0, "clock": 1}
NOT_MESSAGES: list[tuple[bytes, str]] = [
    (b"garbage", "not JSON"),
    (b"", "not JSON"),
    (b"\xff\xfe\0", "not JSON"),
    (b"[" * 100_000, "not JSON (RecursionError)"),
    (b"9" * 5000, "not JSON"),
    (b"[" * 101 + b"]" * 101, "nested deeper than 100 levels"),
    (b'{"__type__": "decimal", "__value__": "x"}', "not JSON"),
    (b"[]", "must be a mapping"),
    (b"null", "must be a mapping"),
    (b"7", "must be a mapping"),
    (b"{}", "body: missing"),
    (b'"' + b"x" * MESSAGE_LIMIT_BYTES, f"the limit is {MESSAGE_LIMIT_BYTES}"),
]
"""Entries of a queue that are not messages, and words of their refusals."""
ENVELOPES: list[tuple[tuple[str, ...], Any]] = [
    (("body",), 7),
    (("body",), None),
    (("body",), "!!!"),
    (("body",), base64.b64encode(b"not JSON").decode()),
    (("body",), base64.b64encode(b"[" * 100_000).decode()),
    (("content-type",), "application/x-python-serialize"),
    (("content-type",), "application/x-yaml"),
    (("content-type",), "application/x-msgpack"),
    (("content-type",), []),
    (("content-encoding",), "rot13"),
    (("content-encoding",), ABSENT),
    (("headers",), None),
    (("headers",), []),
    (("headers", "task"), ABSENT),
    (("headers", "task"), []),
    (("headers", "task"), "os.system"),
    (("headers", "task"), "celery.chain"),
    (("headers", "task"), FILM_TASK),
    (("headers", "id"), None),
    (("headers", "id"), ["a"]),
    (("headers", "id"), "../../a"),
    (("headers", "id"), "a\n"),
    (("headers", "id"), "a" * 100_000),
    (("headers", "eta"), "9999-12-31T23:59:59"),
    (("headers", "eta"), []),
    (("headers", "expires"), "2000-01-01T00:00:00"),
    (("headers", "expires"), 7),
    (("headers", "timelimit"), [1, 2, 3]),
    (("headers", "timelimit"), ["a", "b"]),
    (("headers", "timelimit"), [0.1, 0.1]),
    (("headers", "retries"), "x"),
    (("headers", "group"), "a"),
    (("headers", "shadow"), "x" * 100_000),
    (("headers", "compression"), "application/x-gzip"),
    (("headers", "stamps"), {"a": "b"}),
    (("headers", "chain"), SIGNATURES),
    (("headers", "get"), 7),
    (("headers", "traceparent"), deep(100)),
    (("properties",), ABSENT),
    (("properties",), []),
    (("properties", "delivery_tag"), None),
    (("properties", "delivery_tag"), []),
    (("properties", "delivery_info"), None),
    (("properties", "delivery_info"), {"exchange": "", "routing_key": FILMS}),
    (("properties", "body_encoding"), "evil"),
    (("properties", "priority"), TOO_LARGE),
]
"""A path in a message, and a value that it must not have."""
BODIES: list[tuple[Any, str]] = [
    ({}, "must be a list of arguments"),
    ([1], "must be a list of arguments"),
    ([1, 2, 3], "body.args"),
    ([{}, {}, {}], "body.args"),
    ([["nojob", 0, 1, None], [], {}], "body.kwargs"),
    ([["nojob", 0, 1, None], {"evil": 1}, {}], "body.kwargs"),
    ([["nojob", 0, 1, None], {}, [1]], "body.embed"),
    ([["nojob", 0, 1, None], {}, {"callbacks": SIGNATURES}], "body.embed.callbacks"),
    ([["nojob", 0, 1, None], {}, {"errbacks": SIGNATURES}], "body.embed.errbacks"),
    ([["nojob", 0, 1, None], {}, {"chain": SIGNATURES}], "body.embed.chain"),
    ([["nojob", 0, 1, None], {}, {"chord": SIGNATURES[0]}], "body.embed.chord"),
    ([["nojob", 0, 1, None], {}, {"link\n": SIGNATURES}], "body.embed.link\\n"),
    ([[], {}, {}], "arguments: 0 given"),
    ([["nojob", 0, 1], {}, {}], "arguments: 3 given"),
    ([["nojob", 0, 1, None, None], {}, {}], "arguments: 5 given"),
    ([[None, 0, 1, None], {}, {}], "job_id: must be text"),
    ([[deep(90), 0, 1, None], {}, {}], "job_id: must be text"),
    ([["../../etc", 0, 1, None], {}, {}], "JobNotFoundError: '../../etc' is not a job id"),
    ([["*", 0, 1, None], {}, {}], "is not a job id"),
    ([["nojob\n", 0, 1, None], {}, {}], "is not a job id"),
    ([["", 0, 1, None], {}, {}], "is not a job id"),
    ([["a" * 100_000, 0, 1, None], {}, {}], "is not a job id"),
    ([["nojob", "0", 1, None], {}, {}], "index: must be a whole number"),
    ([["nojob", True, 1, None], {}, {}], "index: must be a whole number"),
    ([["nojob", 0.0, 1, None], {}, {}], "index: must be a whole number"),
    ([["nojob", -1, 1, None], {}, {}], "index: must be a whole number"),
    ([["nojob", TOO_LARGE, 1, None], {}, {}], "index: must be a whole number"),
    ([["nojob", 0, TOO_LARGE, None], {}, {}], "ticket: must be a whole number"),
    ([["nojob", 0, 0, None], {}, {}], "ticket: must be a whole number"),
    ([["nojob", 0, None, None], {}, {}], "ticket: must be a whole number"),
    ([["nojob", 0, 1, []], {}, {}], "state: must be a mapping"),
    ([["nojob", 0, 1, "ltx2.v1"], {}, {}], "state: must be a mapping"),
    ([["nojob", 0, 1, 7], {}, {}], "state: must be a mapping"),
    ([["nojob", 0, 1, deep(700)], {}, {}], "nested deeper than 100 levels"),
    ([["nojob", 0, 1, {"x": "y" * MESSAGE_LIMIT_BYTES}], {}, {}], f"the limit is {MESSAGE_LIMIT_BYTES}"),
]
"""Bodies of a segment's message, and words of their refusals."""
OTHER_QUEUES: list[tuple[str, str, list[Any]]] = [
    (SEGMENTS, TAKE_TASK, ["nojob", 0, 1]),
    (SEGMENTS, TAKE_TASK, ["nojob", 0, 0, 1]),
    (SEGMENTS, TAKE_TASK, ["nojob", 0, "1", 1]),
    (CLIPS, TAKE_TASK, ["nojob", 0, 1, 1]),
    (CLIPS, CLIP_TASK, ["nojob", 0]),
    (CLIPS, CLIP_TASK, ["nojob", TOO_LARGE, 1]),
    (CLIPS, SEGMENT_TASK, ["nojob", 0, 1, None]),
    (FILMS, FILM_TASK, ["nojob"]),
    (FILMS, FILM_TASK, ["../films", 1]),
    (FILMS, FILM_TASK, ["nojob", "1"]),
]
"""Queue, task and arguments."""
BROADCASTS: list[tuple[str, Any]] = [
    (COMMANDS, b"garbage"),
    (COMMANDS, b"[]"),
    (COMMANDS, broadcast([], "celery.pidbox")),
    (COMMANDS, broadcast({}, "celery.pidbox")),
    (COMMANDS, broadcast({**PING, "arguments": [1]}, "celery.pidbox")),
    (COMMANDS, broadcast({**PING, "destination": 7}, "celery.pidbox")),
    (COMMANDS, broadcast({**PING, "reply_to": {"exchange": []}}, "celery.pidbox")),
    (COMMANDS, broadcast({**PING, "pattern": "(", "matcher": "regex"}, "celery.pidbox")),
    (COMMANDS, broadcast(PING, "celery.pidbox", headers={"clock": "x"})),
    (EVENTS, b"7"),
    (EVENTS, broadcast(EVENT, "celeryev", "worker.heartbeat")),
    (EVENTS, broadcast([], "celeryev", "worker.heartbeat", {"hostname": "w@h"})),
    (EVENTS, broadcast({**EVENT, "clock": "x"}, "celeryev", "worker.heartbeat", {"hostname": "w@h"})),
    (EVENTS, broadcast({**EVENT, "timestamp": 1e300}, "celeryev", "worker.heartbeat", {"hostname": "w@h"})),
    (EVENTS, broadcast({**EVENT, "freq": "x"}, "celeryev", "worker.heartbeat", {"hostname": "w@h"})),
    (EVENTS, broadcast({**EVENT, "heartbeats": 7}, "celeryev", "worker.heartbeat", {"hostname": "w@h"})),
    (EVENTS, broadcast(EVENT, "celeryev", "worker.elect.ack", {"hostname": "w@h"})),
]
"""Channel, and a command or event."""


def entries() -> list[tuple[str, bytes]]:
    """Queue and entry of every one that must be refused."""
    plain = [(queue, entry) for queue in QUEUES for entry, _ in NOT_MESSAGES]
    changes = [changed(message(), path, value) for path, value in ENVELOPES]
    changes += [changed(message(), ("body",), encoded(body)) for body, _ in BODIES]
    others = [(queue, message(*arguments, task=task, queue=queue)) for queue, task, arguments in OTHER_QUEUES]
    return plain + [(queue, as_bytes(entry)) for queue, entry in [(SEGMENTS, entry) for entry in changes] + others]


def broadcasts() -> list[tuple[str, bytes]]:
    """Channel and data of every command and event that must be refused."""
    return [(channel, as_bytes(data)) for channel, data in BROADCASTS]


def as_bytes(data: Any) -> bytes:
    """What is sent."""
    return data if isinstance(data, bytes) else json.dumps(data).encode()
