"""Bare Celery tasks with the minimum of a chain: put a small state, publish the next task, return."""

from __future__ import annotations

import os
from typing import Any

import redis
from celery import Celery, Task

URL, BLOBS = "BARE_URL", "BARE_BLOBS"
QUEUE, DONE = "bare", "bare:done"
STATE_BYTES = 5_000

app = Celery("bare", broker=os.environ.get(URL), backend=os.environ.get(URL))
# The settings of longtake's application that affect speed.
app.conf.update(
    task_acks_late=True,
    task_default_queue=QUEUE,
    task_send_sent_event=True,
    task_track_started=True,
    worker_concurrency=1,
    worker_prefetch_multiplier=1,
    worker_send_task_events=True,
    broker_connection_retry_on_startup=True,
)
_clients: dict[str, redis.Redis] = {}


@app.task(bind=True, name="bare.segment")
def segment(task: Task[..., Any], job: str, index: int, segments: int, state: dict[str, Any] | None) -> dict[str, Any]:
    """Segment `index` of `segments`."""
    key = f"bare:{job}:{index}"
    _client(BLOBS).set(key, f"{key}.".encode() * (STATE_BYTES // (len(key) + 1)))
    if index + 1 < segments:
        segment.apply_async((job, index + 1, segments, {"kind": "bare", "payload": {"audio": {"blob_id": key}}}))
    _client(URL).incr(DONE)
    return {"segment": index}


def _client(name: str) -> redis.Redis:
    if name not in _clients:
        _clients[name] = redis.Redis.from_url(os.environ[name])
    return _clients[name]
