"""Messages for one worker alone, on a real Redis: when there are such, and for how long they are waited for."""

from __future__ import annotations

import time

import pytest
import redis

from blobstore import open_blob_store
from tasks.jobs.connection import connect
from tasks.jobs.keys import queue_key
from tasks.jobs.queues import SEGMENTS, STICKY_PREFIX
from tasks.jobs.records import Claim, Refused, UnitKind, WorkUnit
from tasks.jobs.store import STICKY_QUEUE_LIFE_S, JobStore
from tasks.maintenance.reconciler import Reconciler
from tasks.maintenance.sweeper import Sweeper
from tasks.messaging.celery_app import make_app
from tasks.messaging.publisher import Publisher
from tasks.messaging.topology import sticky_queue
from tasks.settings import Settings
from tests.tasks.jobs.protocol import JOB, create, due

MINE = sticky_queue("gpu-0@here")


@pytest.fixture
def client(settings: Settings) -> redis.Redis:
    return connect(settings.redis_url)


@pytest.fixture
def publisher(settings: Settings, jobs: JobStore) -> Publisher:
    return Publisher(make_app(settings, results=False), jobs)


def test_a_message_goes_to_its_worker_alone_while_nobody_else_waits(
    jobs: JobStore, client: redis.Redis, publisher: Publisher
) -> None:
    # Given
    create(jobs)
    # When
    assert publisher.publish(JOB, WorkUnit.segment(0), sticky=MINE)
    # Then it is there, the shared queue knows nothing of it, and it is as good as any other
    assert (client.llen(MINE.name), client.llen(SEGMENTS)) == (1, 0)
    assert not client.exists(queue_key(SEGMENTS))
    assert due(jobs) == [(WorkUnit.segment(0), "waiting")]
    assert isinstance(jobs.claim(JOB, UnitKind.SEGMENT, 0, 1, "w"), Claim)
    assert jobs.queue_claimed(SEGMENTS) == 0


def test_it_goes_to_the_end_of_the_line_when_others_wait(
    jobs: JobStore, client: redis.Redis, publisher: Publisher
) -> None:
    # Given another job's segment in the shared queue
    create(jobs)
    create(jobs, job="bbbb2222")
    assert publisher.publish("bbbb2222", WorkUnit.segment(0))
    # When
    assert publisher.publish(JOB, WorkUnit.segment(0), sticky=MINE)
    # Then
    assert (client.llen(MINE.name), client.llen(SEGMENTS)) == (0, 2)


def test_it_is_sent_to_everybody_when_a_moment_has_passed(
    settings: Settings, jobs: JobStore, client: redis.Redis, publisher: Publisher
) -> None:
    # Given a worker that does not come for its message
    create(jobs)
    assert publisher.publish(JOB, WorkUnit.segment(0), sticky=MINE)
    reconciler = Reconciler(client, jobs, open_blob_store(settings.blobs), publisher, settings)
    # When it is still early, Then it is left alone
    jobs._sticky_wait_ms = 3_600_000
    assert reconciler.reconcile() == 0
    # When the moment has passed, Then everybody gets one, once
    jobs._sticky_wait_ms = 1
    time.sleep(0.005)
    assert [reconciler.reconcile() for _ in range(3)] == [1, 0, 0]
    assert client.llen(SEGMENTS) == 1
    # and the first one comes to nothing
    assert jobs.claim(JOB, UnitKind.SEGMENT, 0, 1, "late") == Refused("a newer message has replaced this one")
    assert isinstance(jobs.claim(JOB, UnitKind.SEGMENT, 0, 2, "w"), Claim)


def test_what_waits_for_a_worker_that_is_gone_does_not_stay(
    settings: Settings, jobs: JobStore, client: redis.Redis
) -> None:
    # Given
    client.lpush(f"{STICKY_PREFIX}gone@nowhere", "a message")
    client.lpush(SEGMENTS, "another")
    # When
    Sweeper(jobs, open_blob_store(settings.blobs), retention_s=60).sweep()
    # Then
    assert 0 < client.ttl(f"{STICKY_PREFIX}gone@nowhere") <= STICKY_QUEUE_LIFE_S
    assert client.ttl(SEGMENTS) == -1
