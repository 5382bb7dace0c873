"""The reconciler against a real Redis: what it publishes again, and what it leaves alone."""

from __future__ import annotations

import time

import pytest
import redis

from blobstore import ManagedBlobStore, open_blob_store
from tasks.client.submit import submit
from tasks.jobs.connection import connect
from tasks.jobs.keys import PULSE, job_keys
from tasks.jobs.queues import SEGMENTS
from tasks.jobs.records import Claim, Progress, UnitKind
from tasks.jobs.store import JobStore
from tasks.maintenance import reconciler as recovery
from tasks.maintenance.reconciler import Reconciler
from tasks.messaging.celery_app import make_app
from tasks.messaging.publisher import Publisher
from tasks.settings import Settings

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
    """Whatever is suspected is taken for stuck at once."""
    monkeypatch.setattr(recovery, "UNPUBLISHED_GRACE_S", 0.0)
    monkeypatch.setattr(recovery, "LOST_MESSAGE_GRACE_S", 0.0)


def claimed(settings: Settings, client: redis.Redis, jobs: JobStore) -> Claim:
    """A worker's claim of segment 0 of a new job, whose message is gone."""
    job = submit(SPEC, settings=settings)
    client.delete(SEGMENTS)
    claim = jobs.claim(job.id, UnitKind.SEGMENT, 0, 1, "w")
    assert isinstance(claim, Claim)
    return claim


def expired(settings: Settings, client: redis.Redis, jobs: JobStore) -> Claim:
    """The same once its lease has run out."""
    jobs._lease_ms = 1
    claim = claimed(settings, client, jobs)
    time.sleep(0.005)
    return claim


@pytest.mark.usefixtures("no_grace")
def test_a_hundred_queued_jobs_are_left_alone(settings: Settings, client: redis.Redis, reconciler: Reconciler) -> None:
    # Given
    for _ in range(100):
        submit(SPEC, settings=settings)
    # When / Then
    assert [reconciler.reconcile() for _ in range(3)] == [0, 0, 0]
    assert client.llen(SEGMENTS) == 100


def test_an_expired_lease_is_published_once(
    settings: Settings, client: redis.Redis, jobs: JobStore, reconciler: Reconciler
) -> None:
    # Given a worker that vanished with segment 0
    expired(settings, client, jobs)
    # When / Then
    assert [reconciler.reconcile() for _ in range(3)] == [1, 0, 0]
    assert client.llen(SEGMENTS) == 1


def test_a_lease_that_lives_is_left_alone(
    settings: Settings, client: redis.Redis, jobs: JobStore, reconciler: Reconciler
) -> None:
    claimed(settings, client, jobs)
    assert [reconciler.reconcile() for _ in range(3)] == [0, 0, 0]


def test_a_lease_that_ran_out_in_an_outage_may_still_be_renewed(
    settings: Settings, client: redis.Redis, jobs: JobStore, reconciler: Reconciler
) -> None:
    # Given a claim whose lease ran out while nobody reached the server
    claim = expired(settings, client, jobs)
    jobs.renew(claim, engine=True)
    time.sleep(0.005)
    client.hset(PULSE, mapping={"last": 1, "silence": 1000, "quiet_from": 0, "quiet_ms": 0})
    # When a reconciler whose call was under way comes through first
    assert reconciler.reconcile() == 0
    # or the next round begins
    jobs.pulse(silence_s=1000, grace_s=1000, budget_bytes=None)
    assert reconciler.reconcile() == 0
    # Then the holder still has its claim
    assert jobs.renew(claim)
    # until its time is over
    time.sleep(0.005)
    client.hset(PULSE, "quiet_ms", 0)
    assert reconciler.reconcile() == 1


def test_the_first_reconciler_of_all_takes_no_outage_for_granted(
    settings: Settings, client: redis.Redis, jobs: JobStore, reconciler: Reconciler
) -> None:
    # Given a worker that is gone before anybody looked after jobs
    expired(settings, client, jobs)
    assert not client.exists(PULSE)
    # When
    jobs.pulse(silence_s=5, grace_s=1000, budget_bytes=None)
    # Then
    assert reconciler.reconcile() == 1


def test_a_lost_message_is_suspected_before_it_is_published(
    settings: Settings, client: redis.Redis, reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given
    submit(SPEC, settings=settings)
    client.delete(SEGMENTS)
    # When the queue was not empty for long enough
    assert reconciler.reconcile() == 0
    # Then
    monkeypatch.setattr(recovery, "LOST_MESSAGE_GRACE_S", 0.0)
    assert [reconciler.reconcile() for _ in range(2)] == [1, 0]


@pytest.mark.usefixtures("no_grace")
def test_a_message_that_later_ones_overtook_is_published_again(
    settings: Settings, client: redis.Redis, jobs: JobStore, reconciler: Reconciler
) -> None:
    # Given two jobs; the first one's message is lost, the second one's is claimed, a third keeps the queue busy
    first, second, _ = (submit(SPEC, settings=settings) for _ in range(3))
    assert client.rpop(SEGMENTS)
    assert client.rpop(SEGMENTS)
    assert reconciler.reconcile() == 0
    assert isinstance(jobs.claim(second.id, UnitKind.SEGMENT, 0, 1, "w"), Claim)
    # When / Then
    assert reconciler.reconcile() == 1
    assert jobs.survey(first.id)[0].ticket == 2  # its second ticket


@pytest.mark.usefixtures("no_grace")
def test_a_damaged_record_keeps_no_other_job_from_being_looked_after(
    settings: Settings, client: redis.Redis, reconciler: Reconciler, caplog: pytest.LogCaptureFixture
) -> None:
    # Given more jobs than are asked about at once, whose messages are lost, and one whose record is no hash
    ids = [submit(SPEC, settings=settings).id for _ in range(recovery.JOBS_PER_SURVEY + 2)]
    client.delete(SEGMENTS)
    (record,) = job_keys(ids[1], "record")
    client.delete(record)
    client.set(record, "damaged")
    # When / Then
    assert reconciler.reconcile() == len(ids) - 1
    (error,) = (record for record in caplog.records if record.levelname == "ERROR")
    assert error.getMessage() == f"cannot reconcile job {ids[1]}"
    assert error.__dict__["reason"] == "WRONGTYPE Operation against a key holding the wrong kind of value"


def test_one_reconciler_works_at_a_time(
    client: redis.Redis, jobs: JobStore, blobs: ManagedBlobStore, settings: Settings, reconciler: Reconciler
) -> None:
    other = Reconciler(client, jobs, blobs, Publisher(make_app(settings, results=False), jobs), settings)
    assert reconciler._hold_lock()
    assert not other._hold_lock()
    assert reconciler._hold_lock()
    client.delete(recovery.LOCK)
    assert other._hold_lock()


def test_steps_of_a_segment_that_was_laid_down_are_shown_no_more(settings: Settings, jobs: JobStore) -> None:
    # Given
    job = submit(SPEC, settings=settings)
    claim = jobs.claim(job.id, UnitKind.SEGMENT, 0, 1, "w")
    assert isinstance(claim, Claim)
    jobs.renew(claim, progress=Progress(0, 3, 8, 0.5))
    assert job.status().progress
    # When
    jobs.release(claim)
    # Then
    assert job.status().progress is None
