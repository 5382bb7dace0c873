"""A key that all jobs share holds what somebody else wrote: it is named, and nothing is changed by halves."""

from __future__ import annotations

import logging

import pytest
import redis

from blobstore import open_blob_store
from tasks.client.submit import submit
from tasks.errors import KeyTypeError, RecordError, ServerError
from tasks.jobs import key_types
from tasks.jobs.key_types import KEY_TYPES, wrong_keys
from tasks.jobs.keys import (
    ACTIVE,
    ENDED,
    EVENTS,
    IDEMPOTENCY,
    JOB_PREFIX,
    JOBS,
    PULSE,
    RESERVED,
    SUBMITTING,
    WAITING,
    WORKERS,
    job_keys,
    worker_key,
)
from tasks.jobs.queues import SEGMENTS, Priority, list_key
from tasks.jobs.results import AdmissionOutcome
from tasks.jobs.store import JobStore
from tasks.maintenance.findings import Severity
from tasks.maintenance.reconciler import Reconciler
from tasks.maintenance.server_findings import check_servers, examine_servers
from tasks.messaging.celery_app import make_app
from tasks.messaging.publisher import Publisher
from tasks.settings import Settings
from tests.tasks.conftest import spec
from tests.tasks.jobs.protocol import JOB, create


def spoil(client: redis.Redis, key: str) -> None:
    """Put a value of another type in the place of a key."""
    client.delete(key)
    if KEY_TYPES[key] == "string":
        client.rpush(key, "x")
    else:
        client.set(key, "x")


def refusal_of_submission(settings: Settings) -> str:
    try:
        submit(spec("a"), settings=settings)
    except KeyTypeError as error:
        return str(error)
    return ""


def test_a_submission_names_the_key_and_leaves_nothing_behind(settings: Settings, client: redis.Redis) -> None:
    refused = set()
    for key in KEY_TYPES:
        # Given
        spoil(client, key)
        # When
        if refusal := refusal_of_submission(settings):
            # Then
            refused.add(key)
            assert f"the key {key} is a string, and longtake keeps a " in refusal
            assert refusal.endswith(f"(`redis-cli RENAME {key} old`), and give other programs a database of their own")
            assert list(client.scan_iter(f"{JOB_PREFIX}*")) == []
        assert [wrong.key for wrong in wrong_keys(client)] == [key]
        # When the key is renamed, Then all works again
        client.rename(key, "old")
        assert not refusal_of_submission(settings)
        client.flushdb()
    assert refused == {JOBS, ACTIVE, WAITING, SUBMITTING, IDEMPOTENCY, RESERVED, PULSE, EVENTS}


def test_a_worker_does_not_start_and_the_doctor_finds_the_key(settings: Settings, client: redis.Redis) -> None:
    spoil(client, ACTIVE)
    problem = f"the key {ACTIVE} is a string, and longtake keeps a sorted set there"
    assert [found.problem for found in examine_servers(settings) if found.severity == Severity.ERROR] == [
        f"Redis at {settings.redis_url}: {problem}"
    ]
    with pytest.raises(ServerError, match=problem):
        check_servers(settings)


def test_a_key_with_control_characters_is_shown_as_redis_cli_reads_it(settings: Settings, client: redis.Redis) -> None:
    spoil(client, list_key(SEGMENTS, Priority.HIGH))
    with pytest.raises(ServerError, match=r'the key "segments\\x06\\x169" is a string, and longtake keeps a list'):
        check_servers(settings)


def test_what_does_not_need_the_key_is_reconciled_and_no_job_fails(
    settings: Settings,
    client: redis.Redis,
    jobs: JobStore,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(key_types, "_met", {})
    # Given a job that is due, and a key of the reconciler's first step that holds something else
    reconciler = Reconciler(
        client, jobs, open_blob_store(settings.blobs), Publisher(make_app(settings, results=False), jobs), settings
    )
    create(jobs)
    spoil(client, SUBMITTING)
    # When
    caplog.set_level(logging.ERROR)
    reconciler.reconcile()
    reconciler.reconcile()
    # Then the rest is done, and the log names the key once
    [line] = [record.getMessage() for record in caplog.records]
    assert f"the key {SUBMITTING} is a string" in line
    # And where a script that reads the records needs the key, the job is not taken for damaged
    spoil(client, ENDED)
    with pytest.raises(KeyTypeError):
        reconciler.reconcile()
    assert jobs.status(JOB).state == "queued"


def test_a_part_of_one_job_of_another_type_is_damage_of_that_job(jobs: JobStore, client: redis.Redis) -> None:
    create(jobs)
    units = job_keys(JOB, "units")[0]
    client.delete(units)
    client.set(units, "x")
    with pytest.raises(RecordError, match=f"damaged: the key {units} is a string, and longtake keeps a hash there"):
        jobs.survey(JOB)


def test_junk_in_what_all_jobs_share_stops_none_of_them(
    settings: Settings, client: redis.Redis, jobs: JobStore
) -> None:
    # Given entries that no longtake wrote
    create(jobs)
    for key in (JOBS, ACTIVE, ENDED):
        client.zadd(key, {b"\xff": 1, "a job": 2})
    client.zadd(WAITING, {b"\xff": 1})
    client.sadd(SUBMITTING, b"\xff")
    client.hset(PULSE, "last", "yesterday")
    client.sadd(WORKERS, "x")
    client.rpush(worker_key("x"), "y")
    # When / Then
    assert jobs.active() == [status.job_id for status in jobs.statuses()] == [JOB]
    assert (jobs.ended_for(-1), jobs.submitting(), jobs.ended_states()) == ([], [], {})
    assert [jobs.admit(None).outcome for _ in range(2)] == [AdmissionOutcome.GONE, AdmissionOutcome.WAIT]
    assert not jobs.pulse(silence_s=1, grace_s=1, budget_bytes=None)
    assert jobs.workers().unreadable == ("x: a worker's entry is damaged: it is no text",)
