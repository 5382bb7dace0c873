"""A job's next segment and the worker that holds its state: who takes it, what is read, and how long it waits."""

from __future__ import annotations

import signal

import pytest

from tests.conftest import wait_until
from tests.faults.breakage import client_of
from tests.faults.conftest import Grounds
from tests.faults.ground import SEGMENTS, Event, Ground

ALONE = ("--only", "segments", "--only", "clips")
HOURS = 3600.0


@pytest.fixture(scope="module")
def two(grounds: Grounds) -> Ground:
    """A ground with two workers that join no films, on which no lease ends."""
    made = grounds(lease_s=HOURS)
    for _ in range(2):
        made.start_worker(*ALONE)
    for worker in made.workers:
        worker.ready()
    return made


def claims(ground: Ground) -> list[Event]:
    return [event for event in ground.events() if event.point == "segment claimed"]


def test_a_worker_goes_on_with_its_own_work(two: Ground) -> None:
    # Given two workers that wait
    job = two.submit(6)
    # When
    wait_until(lambda: job.status().clips == 6, what="all clips")
    # Then one of them has done it all, from what it had in memory
    assert len({event.pid for event in claims(two) if event.job_id == job.id}) == 1
    assert two.sources(job) == {"none": 1, "local": 5}


def test_two_jobs_on_one_worker_take_turns(ground: Ground) -> None:
    # Given a worker inside a segment of a job, and another job that waits
    held = ground.hold("segment rendered", 0)
    first = ground.submit()
    held.pid()
    second = ground.submit()
    # When
    held.release()
    for job in (first, second):
        job.wait()
    # Then neither waits for more than one segment of the other, and both states were kept
    turns = [(event.index, event.job_id) for event in claims(ground)]
    assert turns == [(index, job.id) for index in range(SEGMENTS) for job in (first, second)]
    assert ground.sources(first) == ground.sources(second) == {"none": 1, "local": SEGMENTS - 1}


def test_another_worker_takes_over_within_moments_and_reads_the_state(two: Ground) -> None:
    # Given a worker that has sent the next message to itself
    held = two.hold("message chained", 1)
    job = two.submit(3)
    pid = held.pid()
    worker = next(worker for worker in two.workers if worker.is_alive and pid in worker.pids)
    # When it dies, and no lease tells
    worker.kill()
    # Then the other one goes on
    wait_until(lambda: job.status().committed == 3, what="all segments")
    assert pid not in {event.pid for event in claims(two) if event.job_id == job.id and event.index}
    assert two.sources(job) == {"fetched": 1, "local": 1}


def test_a_worker_that_leaves_keeps_nothing_for_itself(two: Ground) -> None:
    # Given
    worker = next(worker for worker in two.workers if worker.is_alive)
    held = two.hold("segment rendered", 0)
    job = two.submit(2)
    held.pid()
    # When
    worker.shut_down(signal.SIGTERM)
    worker.says("Warm shutdown")
    held.release()
    worker.gone()
    # Then its next segment waits for anybody
    client = client_of(two.broker)
    assert (job.status().committed, client.llen("segments")) == (1, 1)
