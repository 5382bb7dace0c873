"""Sticky queues on a real Redis: when they are used, and for how long."""

from __future__ import annotations

import time

import pytest
import redis

from blobstore import open_blob_store
from tasks.jobs.connection import connect
from tasks.jobs.keys import queue_key
from tasks.jobs.queues import HIGH_PRIORITY, SEGMENTS, STICKY_PREFIX, Priority, list_key
from tasks.jobs.results import Claim, Refused
from tasks.jobs.store import STICKY_QUEUE_LIFE_S, JobStore
from tasks.jobs.units import WorkUnit
from tasks.maintenance.reconciler import Reconciler
from tasks.maintenance.sweeper import Sweeper
from tasks.messaging.celery_app import make_app
from tasks.messaging.publisher import Publisher
from tasks.messaging.topology import sticky_queue
from tasks.settings import Settings
from tests.tasks.jobs.protocol import JOB, create, due

STICKY = sticky_queue("gpu-0@here")


@pytest.fixture
def client(settings: Settings) -> redis.Redis:
    return connect(settings.redis_url)


@pytest.fixture
def publisher(settings: Settings, jobs: JobStore) -> Publisher:
    return Publisher(make_app(settings, results=False), jobs)


def test_a_message_is_sent_to_the_sticky_queue_while_the_shared_queue_is_empty(
    jobs: JobStore, client: redis.Redis, publisher: Publisher
) -> None:
    # Given
    create(jobs)
    # When
    assert publisher.publish(JOB, WorkUnit.segment(0), sticky=STICKY)
    # Then only the sticky queue has it, the shared queue does not count it, and it can be claimed as usual
    assert (client.llen(STICKY.name), client.llen(SEGMENTS)) == (1, 0)
    assert not client.exists(queue_key(SEGMENTS))
    assert due(jobs) == [(WorkUnit.segment(0), "waiting")]
    assert isinstance(jobs.claim(JOB, WorkUnit.segment(0), 1, "w"), Claim)
    assert jobs.queue_states()[SEGMENTS, Priority.NORMAL].claimed == 0


def test_a_message_is_sent_to_the_shared_queue_while_other_messages_wait_there(
    jobs: JobStore, client: redis.Redis, publisher: Publisher
) -> None:
    # Given another job's segment in the shared queue
    create(jobs)
    create(jobs, job="bbbb2222")
    assert publisher.publish("bbbb2222", WorkUnit.segment(0))
    # When
    assert publisher.publish(JOB, WorkUnit.segment(0), sticky=STICKY)
    # Then
    assert (client.llen(STICKY.name), client.llen(SEGMENTS)) == (0, 2)


def test_each_priority_has_its_own_shared_and_sticky_lists(
    jobs: JobStore, client: redis.Redis, publisher: Publisher
) -> None:
    # Given an ordinary job whose message waits in the shared queue, and a job of high priority
    create(jobs, job="bbbb2222")
    assert publisher.publish("bbbb2222", WorkUnit.segment(0))
    create(jobs, priority=Priority.HIGH)
    # When it is published, Then the message that waits does not count: it is taken later in any case
    assert publisher.publish(JOB, WorkUnit.segment(0), sticky=STICKY)
    assert client.llen(f"{STICKY.name}\x06\x16{HIGH_PRIORITY}") == 1
    # When only a message of high priority waits in the shared queue, Then an ordinary one goes to the sticky queue
    create(jobs, job="cccc3333", priority=Priority.HIGH)
    assert publisher.publish("cccc3333", WorkUnit.segment(0))
    assert client.llen(list_key(SEGMENTS, Priority.HIGH)) == 1
    client.delete(SEGMENTS)
    create(jobs, job="dddd4444")
    assert publisher.publish("dddd4444", WorkUnit.segment(0), sticky=STICKY)
    assert (client.llen(STICKY.name), client.llen(SEGMENTS)) == (1, 0)


def test_a_message_that_waits_too_long_is_sent_to_the_shared_queue(
    settings: Settings, jobs: JobStore, client: redis.Redis, publisher: Publisher
) -> None:
    # Given a message in the sticky queue of a worker that does not consume it
    create(jobs)
    assert publisher.publish(JOB, WorkUnit.segment(0), sticky=STICKY)
    reconciler = Reconciler(client, jobs, open_blob_store(settings.blobs), publisher, settings)
    # When it may still wait, Then nothing is published
    jobs._sticky_wait_ms = 3_600_000
    assert reconciler.reconcile() == 0
    # When it has waited too long, Then one message is published on the shared queue, once
    jobs._sticky_wait_ms = 1
    time.sleep(0.005)
    assert [reconciler.reconcile() for _ in range(3)] == [1, 0, 0]
    assert client.llen(SEGMENTS) == 1
    # And the first message is refused
    assert jobs.claim(JOB, WorkUnit.segment(0), 1, "late") == Refused("a newer message has replaced this one")
    assert isinstance(jobs.claim(JOB, WorkUnit.segment(0), 2, "w"), Claim)


def test_the_sticky_queue_of_a_dead_worker_expires(settings: Settings, jobs: JobStore, client: redis.Redis) -> None:
    # Given
    client.lpush(f"{STICKY_PREFIX}gone@nowhere", "a message")
    client.lpush(SEGMENTS, "another")
    # When
    Sweeper(jobs, open_blob_store(settings.blobs), retention_s=60).sweep()
    # Then
    assert 0 < client.ttl(f"{STICKY_PREFIX}gone@nowhere") <= STICKY_QUEUE_LIFE_S
    assert client.ttl(SEGMENTS) == -1
