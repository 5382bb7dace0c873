"""A worker next to a later minor and a later major version of longtake, as a rolling upgrade has them."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
import redis

from tasks.client.submit import submit
from tasks.jobs.keys import job_keys
from tasks.jobs.queues import SEGMENTS
from tasks.jobs.store import JobStore
from tasks.messaging.topology import FORMAT_HEADER
from tasks.settings import Settings
from tests.conftest import RedisProcess, Worker, wait_until

Start = Callable[..., Worker]
SPEC: dict[str, Any] = {"width": 64, "height": 32, "frames": 17, "segments": [{"prompt": "a"}, {"prompt": "b"}]}
REFUSED = "written by a newer longtake; upgrade this worker"


@pytest.fixture
def client(settings: Settings, shared_redis: RedisProcess) -> redis.Redis:
    return redis.Redis(port=shared_redis.port)


def dump_job(client: redis.Redis, job_id: str) -> dict[str, bytes | None]:
    return {key: client.dump(key) for key in job_keys(job_id, "record", "spec", "units", "handoffs", "clips")}


def test_a_job_of_a_later_minor_version_is_rendered(
    settings: Settings, client: redis.Redis, start_worker: Start
) -> None:
    # Given a job that a later minor version wrote, with keys that this one does not know
    job = submit(SPEC, settings=settings)
    record, units = job_keys(job.id, "record", "units")
    client.hset(record, mapping={"format": "0.7", "mood": "9"})
    unit = json.loads(client.hget(units, "segment") or "")
    client.hset(units, "segment", json.dumps(unit | {"format": "0.7", "gpu": "any"}))
    # When / Then
    start_worker(settings)
    assert job.wait().status().film
    assert client.hget(record, "mood") == b"9"


def test_a_job_of_a_later_major_version_is_left_to_workers_that_can_read_it(
    settings: Settings, client: redis.Redis, jobs: JobStore, start_worker: Start
) -> None:
    # Given a job that a later major version wrote, whose message waits, and one of this version behind it
    newer, ours = submit(SPEC, settings=settings), submit(SPEC, settings=settings)
    record = job_keys(newer.id, "record")[0]
    client.hset(record, "format", "2.0")
    before = dump_job(client, newer.id)
    # When a worker of this version runs
    worker = start_worker(settings).ready()
    assert ours.wait().status().film
    # Then it has acknowledged the message, and changed nothing; it says so once, and does not publish it again
    assert client.llen(SEGMENTS) == 0
    assert dump_job(client, newer.id) == before
    another = submit(SPEC, settings=settings)
    assert another.wait().status().film
    assert dump_job(client, newer.id) == before
    lines = [line for line in worker.text().splitlines() if newer.id in line and "cannot reconcile" in line]
    assert [REFUSED in line for line in lines] == [True]
    # When a process that can read it is there, Then its reconciler publishes the message again
    client.hset(record, "format", "0.2")
    film = newer.wait().status().film
    assert film
    assert [handoff.index for handoff in jobs.handoffs(newer.id)] == [0, 1]


def test_a_message_of_a_later_major_version_is_dropped_and_published_again(
    settings: Settings, client: redis.Redis, start_worker: Start
) -> None:
    # Given a message whose header names a later major version
    job = submit(SPEC, settings=settings)
    envelope = json.loads(client.rpop(SEGMENTS) or "")
    envelope["headers"][FORMAT_HEADER] = "2.0"
    body = json.loads(base64.b64decode(envelope["body"]))
    envelope["body"] = base64.b64encode(json.dumps([[*body[0], "an argument of 1.0"], {}, body[2]]).encode()).decode()
    client.lpush(SEGMENTS, json.dumps(envelope))
    # When
    worker = start_worker(settings)
    # Then it is dropped with one line, and the reconciler publishes one that this version reads
    assert job.wait().status().film
    wait_until(lambda: REFUSED in worker.text(), what="the line in the log")
    assert worker.text().count(REFUSED) == 1
