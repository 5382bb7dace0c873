"""What `longtake doctor` finds in the queues and in the job records."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import redis

from tasks.client.submit import submit
from tasks.jobs.keys import job_keys
from tasks.jobs.queues import CLIPS, FILMS, SEGMENTS
from tasks.jobs.store import JobStore
from tasks.jobs.units import JobState, WorkUnit
from tasks.maintenance.findings import SHOWN
from tasks.maintenance.record_findings import STUCK_S
from tasks.settings import Settings
from tests.tasks.conftest import job_store, spec
from tests.tasks.maintenance.conftest import HEALTHY, add, only, texts


def test_messages_that_no_worker_takes(healthy: Settings, client: redis.Redis) -> None:
    # Given
    add(client, replace(HEALTHY, queues=(CLIPS, FILMS)))
    submit(spec("a"), settings=healthy)
    submit(spec("a"), settings=healthy, priority="high")
    # When / Then
    assert only(healthy).startswith(f"error: queues: no living worker takes the messages of {SEGMENTS}: 2 wait; start")


def test_junk(healthy: Settings, client: redis.Redis) -> None:
    # Given junk in a queue, and lists of another application
    client.lpush(FILMS, "junk")
    for number in range(12):
        client.lpush(f"celery\n{number:02}", "x")
    # When
    junk, *lists = texts(healthy)
    # Then
    assert junk.startswith(
        f"warning: queues: 1 of the next 1 entries of {FILMS} are refused by workers: entry: not JSON"
    )
    assert len(lists) == 11
    assert lists[0].startswith(r"warning: queues: the list celery\n00 is no queue of longtake")
    assert lists[-1] == "warning: queues: 2 more lists are no queues of longtake"


def test_records_that_cannot_be_read(healthy: Settings, client: redis.Redis) -> None:
    # Given records that are damaged in five ways, one of a newer version, and a good one
    jobs = [submit(spec("a"), settings=healthy) for _ in range(7)]
    records = [job_keys(job.id, "record")[0] for job in jobs]
    client.hset(records[0], "segments", "many")
    client.hset(records[1], "film", b"\xc1garbage")
    client.hset(records[2], "format", "9.0")
    client.set(records[3], "x")
    client.hset(records[4], "progress", "[1]")
    client.hset(records[5], "failures", "[7]")
    # When
    found = texts(healthy)
    # Then
    assert [text.partition(":")[0] for text in found] == ["error"] * 5 + ["warning"]
    assert f"the record of job {jobs[0].id} is damaged" in found[0]
    assert f"job {jobs[2].id}: written by a newer longtake; upgrade this worker" in found[5]
    assert jobs[6].id not in "".join(found)


def set_back(client: redis.Redis, job_id: str, seconds: float) -> None:
    """Make a job and its message older."""
    record, units = job_keys(job_id, "record", "units")
    client.hincrby(record, "created_at", -int(seconds * 1000))
    unit = json.loads(client.hget(units, "segment") or b"")
    client.hset(units, "segment", json.dumps(unit | {"announced": unit["announced"] - int(seconds * 1000)}))


def test_jobs_that_are_stuck(healthy: Settings, client: redis.Redis) -> None:
    # Given a job whose message is queued for long, and one of the same age; and one that waits for its user
    queued, lost = submit(spec("a"), settings=healthy), submit(spec("a"), settings=healthy)
    waiting = submit({"segments": "open"}, settings=healthy)
    client.hset(job_keys(waiting.id, "record")[0], "created_at", 1)
    for job in (queued, lost):
        set_back(client, job.id, STUCK_S + 1)
    assert texts(healthy) == []
    # When the messages are lost
    client.delete(SEGMENTS)
    # Then
    found = texts(healthy)
    assert found == [
        f"error: jobs: job {job.id} waits for its segment 0, and no message asks for it; "
        "a living worker publishes it within seconds: start one, or read its log"
        for job in (queued, lost)
    ]
    # When a worker has claimed one of them, Then it is not stuck
    unit = json.loads(client.hget(job_keys(queued.id, "units")[0], "segment") or b"")
    claim = job_store(healthy).claim(queued.id, WorkUnit.segment(0), unit["ticket"], "worker")
    assert claim
    assert len(texts(healthy)) == 1


def test_jobs_that_failed_lately(healthy: Settings, client: redis.Redis, jobs: JobStore) -> None:
    # Given one failure more than are shown, and an old one
    failed = [submit(spec("a"), settings=healthy) for _ in range(SHOWN + 2)]
    for job in failed:
        job_store(healthy).stop(job.id, JobState.FAILED, "out of memory")
    client.hset(job_keys(failed[-1].id, "record")[0], "finished_at", int((time.time() - 2 * 86400) * 1000))
    # When
    found = [text for text in texts(healthy) if "jobs:" in text]
    # Then
    assert found[0].startswith(f"warning: jobs: job {failed[0].id} has failed: out of memory; see `longtake status ")
    assert found[SHOWN:] == ["warning: jobs: 1 more jobs failed in the last day"]
