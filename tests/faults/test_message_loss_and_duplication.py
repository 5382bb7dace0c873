"""Messages that are duplicated, reordered, redelivered or lost."""

from __future__ import annotations

import json
import os
import signal

import pytest
from kombu.transport.redis import Channel

from tasks.jobs.connection import connect
from tasks.jobs.queues import FILMS, SEGMENTS, STICKY_PREFIX
from tasks.maintenance import reconciler
from tasks.maintenance.reconciler import Reconciler
from tasks.messaging.celery_app import make_app
from tasks.messaging.publisher import Publisher
from tests.conftest import wait_until
from tests.faults.conftest import MakeHarness
from tests.faults.harness import FaultWorker, Harness
from tests.faults.message_faults import MESSAGE_COPIES, QueueShuffler, publish_copies
from tests.faults.server_faults import client_of, redeliver, wait_idle_after_redelivery

JOBS, ROUNDS = 100, 30
WORKER = {MESSAGE_COPIES: "3", "FAULT_CONSTANTS": "tasks.maintenance.reconciler.LOST_MESSAGE_GRACE_S=1"}


@pytest.fixture(scope="module")
def harness(make_harness: MakeHarness) -> Harness:
    """A harness whose worker publishes each message three times, and considers a message lost after a second."""
    made = make_harness()
    made.start_worker(**WORKER)
    return made


@pytest.fixture
def client_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process publishes each message three times, too."""
    monkeypatch.setattr(Channel, "_put", publish_copies(3))


def only_worker(harness: Harness) -> FaultWorker:
    """Kill all workers except the first; returns the first."""
    first, *others = [worker for worker in harness.workers if worker.process.poll() is None]
    for other in others:
        other.kill()
    return first


def make_reconciler(harness: Harness) -> Reconciler:
    publisher = Publisher(make_app(harness.settings, results=False), harness.jobs)
    return Reconciler(connect(harness.settings.redis_url), harness.jobs, harness.blobs, publisher, harness.settings)


def queued_messages(harness: Harness) -> int:
    """How many different messages are in the segment queue; copies count once."""
    entries = client_of(harness.broker).lrange(SEGMENTS, 0, -1)
    return len({json.loads(entry)["headers"]["id"] for entry in entries})


def start_others(harness: Harness, count: int) -> None:
    """Start `count` workers besides the first, and wait until all are idle."""
    only_worker(harness)
    for _ in range(count):
        harness.start_worker(**WORKER)

    def idle() -> int:
        return int(client_of(harness.broker).info("clients")["blocked_clients"])

    wait_until(lambda: idle() == 1 + count, what="the workers to wait for messages")


def render_with_shuffled_copies(harness: Harness, film: str, seed: int) -> None:
    with QueueShuffler(client_of(harness.broker), seed):
        # When
        jobs = [harness.submit() for _ in range(4)]
        # Then nothing is rendered twice
        for job in jobs:
            harness.verify(job, film)
        harness.wait_idle()


def test_a_hundred_jobs_behind_one_worker_are_a_hundred_messages(
    harness: Harness, film: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given one busy worker, and no grace periods
    only_worker(harness)
    monkeypatch.setattr(reconciler, "UNPUBLISHED_GRACE_S", 0.0)
    monkeypatch.setattr(reconciler, "LOST_MESSAGE_GRACE_S", 0.0)
    hold = harness.hold("segment rendered", 0)
    first = harness.submit()
    hold.wait()
    waiting = queued_messages(harness)
    # When
    jobs = [harness.submit() for _ in range(JOBS)]
    reconcile = make_reconciler(harness).reconcile
    published = sum(reconcile() for _ in range(ROUNDS))
    # Then nothing is published again
    assert published == 0
    assert queued_messages(harness) == waiting + JOBS
    # When they are cancelled
    for job in jobs:
        job.cancel()
    hold.release()
    # Then the first job finishes
    harness.verify(first, film)
    harness.wait_idle()


@pytest.mark.parametrize(
    ("queue", "point", "index"),
    [
        pytest.param(STICKY_PREFIX, "message sent", 1, id="segment"),
        pytest.param(FILMS, "message sent", -1, id="film", marks=pytest.mark.faults),
    ],
)
def test_a_message_lost_in_its_queue(harness: Harness, film: str, queue: str, point: str, index: int) -> None:
    # Given a worker that has sent a message, and does not take it yet
    only_worker(harness)
    hold = harness.hold(point, index)
    job = harness.submit()
    hold.wait()
    # When
    harness.mark_fault()
    [key] = harness.sticky_queues() if queue == STICKY_PREFIX else [queue]
    assert client_of(harness.broker).delete(key)
    hold.release()
    # Then it is published again
    harness.verify(job, film)
    harness.wait_idle()


def test_a_message_redelivered_while_its_segment_is_rendered(harness: Harness, film: str) -> None:
    # Given a segment that takes longer than the visibility timeout
    broker, _ = client_of(harness.broker), only_worker(harness)
    hold = harness.hold("segment rendered", 1)
    job = harness.submit()
    hold.wait()
    harness.start_worker(**WORKER)

    # When the broker delivers its message to another worker, which refuses it
    def redelivered() -> bool:
        redeliver(harness.settings)
        return not broker.llen(SEGMENTS) and not broker.hlen("unacked")

    wait_until(redelivered, what="the redelivered message to be refused")
    hold.release()
    # Then nothing is rendered again
    harness.verify(job, film)
    harness.wait_idle()


def test_a_message_lost_with_its_worker_before_the_claim(harness: Harness, film: str) -> None:
    # Given a worker whose child is stopped before it can claim
    broker, worker = client_of(harness.broker), only_worker(harness)
    os.kill(worker.pids[1], signal.SIGSTOP)
    job = harness.submit()
    wait_until(lambda: broker.hlen("unacked") == 1, what="the message to be delivered")
    # When it is killed, and another worker is started
    harness.mark_fault()
    worker.kill()
    harness.start_worker(**WORKER)
    # Then the message is published again
    harness.verify(job, film)
    wait_idle_after_redelivery(harness)


@pytest.mark.usefixtures("client_copies")
def test_every_message_three_times_in_random_order(harness: Harness, film: str) -> None:
    # Given two workers
    start_others(harness, 1)
    render_with_shuffled_copies(harness, film, seed=1)


@pytest.mark.faults
@pytest.mark.usefixtures("client_copies")
def test_every_message_three_times_in_ten_random_orders(harness: Harness, film: str) -> None:
    # Given three workers
    start_others(harness, 2)
    for seed in range(10):
        render_with_shuffled_copies(harness, film, seed=1000 * seed)
