"""The reconciler on a real Redis: which messages it publishes again."""

from __future__ import annotations

import logging
import socket
import threading
import time
from contextlib import suppress
from dataclasses import replace

import pytest
import redis

from blobstore import ManagedBlobStore, open_blob_store
from tasks.client.submit import submit
from tasks.jobs.connection import connect
from tasks.jobs.keys import PULSE, RECONCILER_LOCK, SUBMITTING, job_keys
from tasks.jobs.queues import SEGMENTS
from tasks.jobs.records import Progress
from tasks.jobs.results import Claim
from tasks.jobs.store import JobStore
from tasks.jobs.units import WorkUnit
from tasks.jobs.workers import ChildInfo, ChildState, WorkerInfo, WorkerRegistry
from tasks.maintenance import reconciler as reconciler_module
from tasks.maintenance.reconciler import Reconciler, open_reconciler_blobs
from tasks.messaging.celery_app import make_app
from tasks.messaging.publisher import Publisher
from tasks.settings import Settings
from tests.conftest import wait_until

SPEC = {"segments": [{"prompt": "a"}, {"prompt": "b"}]}


@pytest.fixture
def client(settings: Settings) -> redis.Redis:
    return connect(settings.redis_url)


@pytest.fixture
def blobs(settings: Settings) -> ManagedBlobStore:
    return open_blob_store(settings.blobs)


@pytest.fixture
def reconciler(client: redis.Redis, jobs: JobStore, blobs: ManagedBlobStore, settings: Settings) -> Reconciler:
    return Reconciler(client, jobs, blobs, Publisher(make_app(settings, results=False), jobs), settings)


@pytest.fixture
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without grace periods, a suspect unit is published at once."""
    monkeypatch.setattr(reconciler_module, "UNPUBLISHED_GRACE_S", 0.0)
    monkeypatch.setattr(reconciler_module, "LOST_MESSAGE_GRACE_S", 0.0)


def claimed(settings: Settings, client: redis.Redis, jobs: JobStore) -> Claim:
    """A claim on segment 0 of a new job, whose message was consumed."""
    job = submit(SPEC, settings=settings)
    client.delete(SEGMENTS)
    claim = jobs.claim(job.id, WorkUnit.segment(0), 1, "w")
    assert isinstance(claim, Claim)
    return claim


def expired(settings: Settings, client: redis.Redis, jobs: JobStore) -> Claim:
    """A claim on segment 0 of a new job, whose lease has expired."""
    jobs._lease_ms = 1
    claim = claimed(settings, client, jobs)
    time.sleep(0.005)
    return claim


@pytest.mark.usefixtures("no_grace")
def test_queued_jobs_are_not_published_again(settings: Settings, client: redis.Redis, reconciler: Reconciler) -> None:
    # Given
    for _ in range(100):
        submit(SPEC, settings=settings)
    # When / Then
    assert [reconciler.reconcile() for _ in range(3)] == [0, 0, 0]
    assert client.llen(SEGMENTS) == 100


def test_a_segment_whose_lease_expired_is_published_once(
    settings: Settings, client: redis.Redis, jobs: JobStore, reconciler: Reconciler
) -> None:
    # Given a worker that died with a claim on segment 0
    expired(settings, client, jobs)
    # When / Then
    assert [reconciler.reconcile() for _ in range(3)] == [1, 0, 0]
    assert client.llen(SEGMENTS) == 1


def test_a_segment_with_a_valid_lease_is_not_published(
    settings: Settings, client: redis.Redis, jobs: JobStore, reconciler: Reconciler
) -> None:
    claimed(settings, client, jobs)
    assert [reconciler.reconcile() for _ in range(3)] == [0, 0, 0]


def test_a_lease_that_expired_in_an_outage_can_be_renewed(
    settings: Settings, client: redis.Redis, jobs: JobStore, reconciler: Reconciler
) -> None:
    # Given a claim whose lease expired while the server was unreachable
    claim = expired(settings, client, jobs)
    jobs.renew(claim, engine=True)
    time.sleep(0.005)
    client.hset(PULSE, mapping={"last": 1, "silence": 1000, "quiet_from": 0, "quiet_ms": 0})
    # When a reconciler that was in the middle of a round continues, Then it does not publish
    assert reconciler.reconcile() == 0
    # When the next round starts, Then it does not publish either
    jobs.pulse(silence_s=1000, grace_s=1000, budget_bytes=None)
    assert reconciler.reconcile() == 0
    # And the holder keeps its claim
    assert jobs.renew(claim)
    # When the lease expires after the quiet period, Then the segment is published
    time.sleep(0.005)
    client.hset(PULSE, "quiet_ms", 0)
    assert reconciler.reconcile() == 1


def test_the_first_pulse_does_not_follow_an_outage(
    settings: Settings, client: redis.Redis, jobs: JobStore, reconciler: Reconciler
) -> None:
    # Given a claim whose lease expired before the first reconciler ran
    expired(settings, client, jobs)
    assert not client.exists(PULSE)
    # When
    jobs.pulse(silence_s=5, grace_s=1000, budget_bytes=None)
    # Then
    assert reconciler.reconcile() == 1


def test_a_lost_message_is_published_again_after_a_grace_period(
    settings: Settings, client: redis.Redis, reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given
    submit(SPEC, settings=settings)
    client.delete(SEGMENTS)
    # When the grace period has not ended, Then nothing is published
    assert reconciler.reconcile() == 0
    # When it has ended, Then the message is published once
    monkeypatch.setattr(reconciler_module, "LOST_MESSAGE_GRACE_S", 0.0)
    assert [reconciler.reconcile() for _ in range(2)] == [1, 0]


@pytest.mark.usefixtures("no_grace")
def test_a_message_is_not_replaced_while_the_worker_that_may_have_it_loads(
    settings: Settings, client: redis.Redis, reconciler: Reconciler
) -> None:
    # Given a message that was taken, and one worker, whose child was replaced: at first there is none, then it loads
    submit(SPEC, settings=settings)
    client.delete(SEGMENTS)
    registry, loading = WorkerRegistry(client), ChildInfo(2, ChildState.LOADING, 1.0)
    gpu = WorkerInfo("gpu-0", "gpu-0", "h", 1, 1.0, 2.0, 0.0, "m", "e", queues=(SEGMENTS,))
    for children in ((), (loading,)):
        registry.write(replace(gpu, children=children), life_s=60)
        # When / Then
        assert reconciler.reconcile() == 0
    # When it is idle, Then the message was lost
    registry.write(replace(gpu, children=(replace(loading, state=ChildState.IDLE),)), life_s=60)
    assert reconciler.reconcile() == 1


@pytest.mark.usefixtures("no_grace")
def test_a_message_is_published_again_after_a_later_one_was_claimed(
    settings: Settings, client: redis.Redis, jobs: JobStore, reconciler: Reconciler
) -> None:
    # Given three jobs: the message of the first is lost, of the second claimed, of the third still queued
    first, second, _ = (submit(SPEC, settings=settings) for _ in range(3))
    assert client.rpop(SEGMENTS)
    assert client.rpop(SEGMENTS)
    assert reconciler.reconcile() == 0
    assert isinstance(jobs.claim(second.id, WorkUnit.segment(0), 1, "w"), Claim)
    # When / Then
    assert reconciler.reconcile() == 1
    assert jobs.survey(first.id)[0].ticket == 2  # its second ticket


@pytest.mark.usefixtures("no_grace")
def test_a_damaged_record_does_not_block_other_jobs(
    settings: Settings, client: redis.Redis, reconciler: Reconciler, caplog: pytest.LogCaptureFixture
) -> None:
    # Given more jobs than one survey covers, all messages lost, and one record that is not a hash
    ids = [submit(SPEC, settings=settings).id for _ in range(reconciler_module.JOBS_PER_SURVEY + 2)]
    client.delete(SEGMENTS)
    (record,) = job_keys(ids[1], "record")
    client.delete(record)
    client.set(record, "damaged")
    # When / Then
    assert reconciler.reconcile() == len(ids) - 1
    (error,) = (record for record in caplog.records if record.levelname == "ERROR")
    assert error.getMessage() == f"cannot reconcile job {ids[1]}"
    assert error.__dict__["reason"] == "WRONGTYPE Operation against a key holding the wrong kind of value"


@pytest.mark.parametrize("garbage", [b"\xc1garbage", b"{", b"[]", b"null", b'{"index": "x"}'])
def test_a_job_with_a_damaged_unit_fails_once(
    settings: Settings, client: redis.Redis, jobs: JobStore, reconciler: Reconciler, garbage: bytes
) -> None:
    # Given
    damaged, other = submit(SPEC, settings=settings), submit(SPEC, settings=settings)
    client.hset(job_keys(damaged.id, "units")[0], "segment", garbage)
    # When
    for _ in range(3):
        reconciler.reconcile()
    # Then
    assert damaged.status().state == "failed"
    assert damaged.status().reason == "its record is damaged; the log of a worker says how"
    assert jobs.active() == [other.id]


@pytest.mark.parametrize(
    "error",
    [
        redis.exceptions.NoScriptError("No matching script. Please use EVAL."),
        redis.exceptions.NoPermissionError("this user has no permissions to run the 'hset' command"),
        redis.ResponseError("READONLY You can't write against a read only replica. script: 1, on @user_script:7."),
        redis.ResponseError("BUSY Redis is busy running a script."),
    ],
    ids=str,
)
def test_an_error_of_the_server_fails_no_job(
    settings: Settings, jobs: JobStore, reconciler: Reconciler, error: redis.RedisError
) -> None:
    # Given a job whose survey met an error that says nothing about its record
    job = submit(SPEC, settings=settings)
    # When / Then
    assert reconciler._reconcile_job(job.id, error, set(), time.monotonic()) == 0
    assert jobs.active() == [job.id]


def test_a_round_tries_a_blob_server_that_is_out_once(
    settings: Settings, client: redis.Redis, jobs: JobStore, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a server that closes every connection, two submissions to complete, and a stuck segment
    tried: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=close_connections, args=(listener, tried), daemon=True).start()
        blobs = open_reconciler_blobs(
            settings.model_copy(update={"blob_url": f"redis://127.0.0.1:{listener.getsockname()[1]}/0"})
        )
        reconciler = Reconciler(client, jobs, blobs, Publisher(make_app(settings, results=False), jobs), settings)
        expired(settings, client, jobs)
        client.sadd(SUBMITTING, "one", "two")
        # When / Then the segment is published, and each round tries the server once
        assert [reconciler.reconcile() for _ in range(2)] == [1, 0]
        assert len(tried) == 2
    # and the outage is one line
    assert [record.name for record in caplog.records if record.levelno >= logging.WARNING] == [
        "blobstore.redis.outages",
        "tasks.maintenance.reconciler",  # published again
    ]


def close_connections(listener: socket.socket, accepted: list[socket.socket]) -> None:
    with suppress(OSError):
        while True:
            accepted.append(listener.accept()[0])
            accepted[-1].close()


def test_only_one_reconciler_holds_the_lock(
    client: redis.Redis, jobs: JobStore, blobs: ManagedBlobStore, settings: Settings, reconciler: Reconciler
) -> None:
    other = Reconciler(client, jobs, blobs, Publisher(make_app(settings, results=False), jobs), settings)
    assert reconciler._hold_lock()
    assert not other._hold_lock()
    assert reconciler._hold_lock()
    client.delete(RECONCILER_LOCK)
    assert other._hold_lock()


def test_releasing_a_segment_clears_its_progress(settings: Settings, jobs: JobStore) -> None:
    # Given
    job = submit(SPEC, settings=settings)
    claim = jobs.claim(job.id, WorkUnit.segment(0), 1, "w")
    assert isinstance(claim, Claim)
    jobs.renew(claim, progress=Progress(0, 3, 8, 0.5))
    assert job.status().progress
    # When
    jobs.release(claim)
    # Then
    assert job.status().progress is None


def test_a_failure_that_goes_on_is_logged_once(
    client: redis.Redis, reconciler: Reconciler, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a user that lacks a right, so that every round fails
    reconciler._settings = settings.model_copy(update={"reconcile_s": 0.01})

    def rounds(outcome: str) -> int:
        return int(client.info("commandstats").get("cmdstat_zrange", {}).get(outcome, 0))

    def wait_for_rounds(outcome: str) -> None:
        before = rounds(outcome)
        wait_until(lambda: rounds(outcome) > before + 3, what=f"rounds: {outcome}")

    client.execute_command("ACL", "SETUSER", "default", "-zrange")
    thread = threading.Thread(target=reconciler.run, daemon=True)
    thread.start()
    try:
        # When / Then it is one line
        wait_for_rounds("rejected_calls")
        assert [record.getMessage() for record in caplog.records] == ["reconciling failed, trying again"]
        # When it works, and fails again, Then it is one more
        client.execute_command("ACL", "SETUSER", "default", "+@all")
        wait_for_rounds("calls")
        client.execute_command("ACL", "SETUSER", "default", "-zrange")
        wait_for_rounds("rejected_calls")
        assert len(caplog.records) == 2
    finally:
        client.execute_command("ACL", "SETUSER", "default", "+@all")
        reconciler.stop()
        thread.join()
