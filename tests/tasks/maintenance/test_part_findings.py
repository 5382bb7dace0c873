"""`longtake doctor` reads every stored part of the records."""

from __future__ import annotations

import json

import pytest
import redis

from blobstore.stored_format import FORMAT
from tasks.client.submit import submit
from tasks.jobs.connection import connect
from tasks.jobs.keys import SUBMITTING, job_keys
from tasks.jobs.queues import FILMS, SEGMENTS
from tasks.jobs.records import pack_stored
from tasks.jobs.store import JobStore
from tasks.jobs.workers import WorkerInfo, WorkerRegistry
from tasks.maintenance import part_findings
from tasks.maintenance.doctor import examine
from tasks.maintenance.record_findings import STUCK_S
from tasks.settings import Settings
from tests.tasks.conftest import spec
from tests.tasks.jobs.protocol import JOB, claim, commit, create


@pytest.fixture
def client(settings: Settings) -> redis.Redis:
    """The records of a deployment with a worker that joins films alone."""
    client = connect(settings.redis_url)
    info = WorkerInfo("t", "joiner@a", "a", 1, 1.0, 2.0, 0.0, settings.model, settings.engine, queues=(FILMS,))
    WorkerRegistry(client).write(info, life_s=60)
    return client


def texts(settings: Settings, about: str) -> list[str]:
    return [f"{one.severity}: {one}" for one in examine(settings).findings if one.about == about]


def test_damaged_and_newer_parts_are_named(settings: Settings, jobs: JobStore, client: redis.Redis) -> None:
    # Given a job with a part of each kind
    create(jobs, segments=3)
    for index in range(3):
        commit(jobs, claim(jobs, index))
    spec_key, handoffs, clips = job_keys(JOB, "spec", "handoffs", "clips")
    assert texts(settings, "records") == []
    # When some are damaged, and one is of a newer version
    client.hset(handoffs, "1", b"\xc1garbage")
    client.hset(handoffs, "2", pack_stored({}).replace(FORMAT.encode(), b"9.9"))
    client.hset(spec_key, "0", pack_stored({"seed": 1}))
    client.hset(clips, "x\n", b"")
    # Then
    found = texts(settings, "records")
    assert [line.partition(", of job")[0] for line in found] == [
        "error: spec, field '0'",
        "error: handoffs, field '1'",
        "error: clips, field 'x\\n'",
        "warning: handoffs, field '2'",
    ]
    assert "is damaged" in found[0] + found[1]
    assert "written by a newer longtake" in found[3]
    # And a key of another type is one finding
    client.delete(handoffs)
    client.set(handoffs, "x")
    assert any(
        "the handoffs of job aaaa1111 are damaged: the key is no hash" in line for line in texts(settings, "records")
    )


def test_no_more_than_a_bound_is_read(settings: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(5):
        submit(spec("a", "b"), settings=settings)
    assert str(examine(settings).read) == "read 15 stored parts of 5 jobs"
    monkeypatch.setattr(part_findings, "JOBS_PER_PAGE", 2)
    monkeypatch.setattr(part_findings, "PARTS_READ", 10)
    assert str(examine(settings).read) == "read 10 stored parts of 4 jobs; 1 older job left out"


def test_a_submission_that_stays_incomplete_is_named(settings: Settings, client: redis.Redis) -> None:
    # Given
    job = submit(spec("a"), settings=settings)
    client.sadd(SUBMITTING, job.id)
    assert not any("submission" in line for line in texts(settings, "jobs"))
    # When nobody has completed it for long
    client.hincrby(job_keys(job.id, "record")[0], "created_at", -int((STUCK_S + 1) * 1000))
    # Then
    assert any(f"the submission of job {job.id} is not complete" in line for line in texts(settings, "jobs"))


def test_jobs_without_a_worker_for_their_queue_are_named(settings: Settings, client: redis.Redis) -> None:
    # Given a job whose message is gone, and whose segments nobody takes
    job = submit(spec("a"), settings=settings)
    client.delete(SEGMENTS)
    # When / Then
    [line] = texts(settings, "jobs")
    assert line.startswith(f"error: no living worker takes segments, needed by 1 job, such as {job.id}; start")
    # and damaged units are no reason to fail
    client.hset(job_keys(job.id, "units")[0], "segment", json.dumps([]))
    assert texts(settings, "jobs") == []
