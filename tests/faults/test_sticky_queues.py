"""Sticky queues: which worker takes the next segment, where it reads the state, and what happens on failure."""

from __future__ import annotations

import signal

import pytest

from tests.conftest import wait_until
from tests.faults.conftest import MakeHarness
from tests.faults.harness import SEGMENTS, Event, Harness
from tests.faults.server_faults import client_of

NO_FILMS = ("--only", "segments", "--only", "clips")
HOURS = 3600.0


@pytest.fixture(scope="module")
def two_workers(make_harness: MakeHarness) -> Harness:
    """A harness with two workers that join no films, and leases that do not expire."""
    made = make_harness(lease_s=HOURS)
    for _ in range(2):
        made.start_worker(*NO_FILMS)
    for worker in made.workers:
        worker.ready()
    return made


def claims(harness: Harness) -> list[Event]:
    return [event for event in harness.events() if event.point == "segment claimed"]


def test_one_worker_renders_a_whole_job(two_workers: Harness) -> None:
    # Given two idle workers
    job = two_workers.submit(6)
    # When
    wait_until(lambda: job.status().clips == 6, what="all clips")
    # Then one of them has rendered every segment, with states from its memory
    assert len({event.pid for event in claims(two_workers) if event.job_id == job.id}) == 1
    assert two_workers.state_sources(job) == {"none": 1, "local": 5}


def test_two_jobs_on_one_worker_alternate(harness: Harness) -> None:
    # Given a worker that renders a segment of one job, and a second job in the queue
    hold = harness.hold("segment rendered", 0)
    first = harness.submit()
    hold.wait()
    second = harness.submit()
    # When
    hold.release()
    for job in (first, second):
        job.wait()
    # Then neither waits for more than one segment of the other, and both states stayed in memory
    turns = [(event.index, event.job_id) for event in claims(harness)]
    assert turns == [(index, job.id) for index in range(SEGMENTS) for job in (first, second)]
    assert harness.state_sources(first) == harness.state_sources(second) == {"none": 1, "local": SEGMENTS - 1}


def test_a_worker_killed_with_a_message_in_its_sticky_queue(two_workers: Harness) -> None:
    # Given a worker that has sent the next message to its sticky queue
    hold = two_workers.hold("message chained", 1)
    job = two_workers.submit(3)
    pid = hold.wait()
    worker = next(worker for worker in two_workers.workers if worker.is_alive and pid in worker.pids)
    # When it is killed, and no lease expires
    worker.kill()
    # Then the other worker takes over and fetches the state
    wait_until(lambda: job.status().committed == 3, what="all segments")
    assert pid not in {event.pid for event in claims(two_workers) if event.job_id == job.id and event.index}
    wait_until(lambda: two_workers.state_sources(job).total() == 2, what="the results of both tasks")
    assert two_workers.state_sources(job) == {"fetched": 1, "local": 1}


def test_a_worker_that_shuts_down_uses_the_shared_queue(two_workers: Harness) -> None:
    # Given
    worker = next(worker for worker in two_workers.workers if worker.is_alive)
    hold = two_workers.hold("segment rendered", 0)
    job = two_workers.submit(2)
    hold.wait()
    # When
    worker.shut_down(signal.SIGTERM)
    wait_until(lambda: not worker.reconciler, what="the shutdown to begin")
    hold.release()
    worker.wait_exit()
    # Then the next segment is in the shared queue
    client = client_of(two_workers.broker)
    assert (job.status().committed, client.llen("segments")) == (1, 1)
