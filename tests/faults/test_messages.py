"""Messages that come more than once, in no order, too late or not at all."""

from __future__ import annotations

import json
import os
import signal

import pytest
from kombu.transport.redis import Channel

from tasks.jobs.connection import connect
from tasks.jobs.queues import FILMS, SEGMENTS, STICKY_PREFIX
from tasks.maintenance import reconciler as recovery
from tasks.maintenance.reconciler import Reconciler
from tasks.messaging.celery_app import make_app
from tasks.messaging.publisher import Publisher
from tests.conftest import wait_until
from tests.faults.breakage import at_rest_once_redelivered, client_of, redeliver
from tests.faults.conftest import Grounds
from tests.faults.copies import COPIES, Shuffler, keep_copies
from tests.faults.ground import FaultWorker, Ground

HUNDRED, ROUNDS = 100, 30
WORKER = {COPIES: "3", "FAULT_CONSTANTS": "tasks.maintenance.reconciler.LOST_MESSAGE_GRACE_S=1"}


@pytest.fixture(scope="module")
def ground(grounds: Grounds) -> Ground:
    """A ground whose only worker publishes every message three times, and suspects a lost one after a second."""
    made = grounds()
    made.start_worker(**WORKER)
    return made


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this process publishes comes three times, too."""
    monkeypatch.setattr(Channel, "_put", keep_copies(3))


def alone(ground: Ground) -> FaultWorker:
    """The one worker of the ground; others are ended."""
    first, *others = [worker for worker in ground.workers if worker.process.poll() is None]
    for other in others:
        other.kill()
    return first


def reconciler_of(ground: Ground) -> Reconciler:
    publisher = Publisher(make_app(ground.settings, results=False), ground.jobs)
    return Reconciler(connect(ground.settings.redis_url), ground.jobs, ground.blobs, publisher, ground.settings)


def messages_in(ground: Ground) -> int:
    """How many messages wait, the copies that the worker makes of its own not counted."""
    entries = client_of(ground.broker).lrange(SEGMENTS, 0, -1)
    return len({json.loads(entry)["headers"]["id"] for entry in entries})


def start_others(ground: Ground, count: int) -> None:
    """As many more workers, all waiting for messages."""
    alone(ground)
    for _ in range(count):
        ground.start_worker(**WORKER)

    def waiting() -> int:
        return int(client_of(ground.broker).info("clients")["blocked_clients"])

    wait_until(lambda: waiting() == 1 + count, what="the workers to wait for messages")


def thrice_and_shuffled(ground: Ground, film: str, seed: int) -> None:
    with Shuffler(client_of(ground.broker), seed):
        # When
        jobs = [ground.submit() for _ in range(4)]
        # Then
        for job in jobs:
            ground.verify(job, film)
        ground.at_rest()


def test_a_hundred_jobs_behind_one_worker_are_a_hundred_messages(
    ground: Ground, film: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given one worker that is busy, and reconcilers without patience
    alone(ground)
    monkeypatch.setattr(recovery, "UNPUBLISHED_GRACE_S", 0.0)
    monkeypatch.setattr(recovery, "LOST_MESSAGE_GRACE_S", 0.0)
    held = ground.hold("segment rendered", 0)
    first = ground.submit()
    held.pid()
    waiting = messages_in(ground)
    # When
    jobs = [ground.submit() for _ in range(HUNDRED)]
    reconciler = reconciler_of(ground)
    published = sum(reconciler.reconcile() for _ in range(ROUNDS))
    # Then
    assert published == 0
    assert messages_in(ground) == waiting + HUNDRED
    # When they are not wanted any more
    for job in jobs:
        job.cancel()
    held.release()
    # Then
    ground.verify(first, film)
    ground.at_rest()


@pytest.mark.parametrize(
    ("queue", "point", "index"),
    [
        pytest.param(f"{STICKY_PREFIX}worker-0@test", "message sent", 1, id="segment"),
        pytest.param(FILMS, "message sent", -1, id="film", marks=pytest.mark.faults),
    ],
)
def test_a_message_lost_in_its_queue(ground: Ground, film: str, queue: str, point: str, index: int) -> None:
    # Given a worker that has sent a message, and has not finished what it does
    alone(ground)
    held = ground.hold(point, index)
    job = ground.submit()
    held.pid()
    # When
    ground.breaks()
    assert client_of(ground.broker).delete(queue)
    held.release()
    # Then
    ground.verify(job, film)
    ground.at_rest()


def test_a_message_that_comes_again_while_its_work_goes_on(ground: Ground, film: str) -> None:
    # Given a segment that takes longer than the visibility timeout
    broker, _ = client_of(ground.broker), alone(ground)
    held = ground.hold("segment rendered", 1)
    job = ground.submit()
    held.pid()
    ground.start_worker(**WORKER)

    # When the broker delivers its message to another worker, which refuses it
    def came_again() -> bool:
        redeliver(ground.settings)
        return not broker.llen(SEGMENTS) and not broker.hlen("unacked")

    wait_until(came_again, what="the message to come again")
    held.release()
    # Then
    ground.verify(job, film)
    ground.at_rest()


def test_a_message_lost_with_its_worker_before_the_claim(ground: Ground, film: str) -> None:
    # Given a worker whose child does nothing
    broker, worker = client_of(ground.broker), alone(ground)
    os.kill(worker.pids[1], signal.SIGSTOP)
    job = ground.submit()
    wait_until(lambda: broker.hlen("unacked") == 1, what="the message to be delivered")
    # When
    ground.breaks()
    worker.kill()
    ground.start_worker(**WORKER)
    # Then
    ground.verify(job, film)
    at_rest_once_redelivered(ground)


@pytest.mark.usefixtures("copies")
def test_every_message_thrice_and_in_no_order(ground: Ground, film: str) -> None:
    # Given
    start_others(ground, 1)
    thrice_and_shuffled(ground, film, seed=1)


@pytest.mark.faults
@pytest.mark.usefixtures("copies")
def test_every_message_thrice_and_in_no_order_many_times(ground: Ground, film: str) -> None:
    # Given
    start_others(ground, 2)
    for seed in range(10):
        thrice_and_shuffled(ground, film, seed=1000 * seed)
