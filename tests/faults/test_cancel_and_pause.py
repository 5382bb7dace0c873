"""A job that the user cancels or pauses at any moment."""

from __future__ import annotations

import pytest

from tasks.client.job import Job
from tests.conftest import wait_until
from tests.faults.harness import Hold, failpoints
from tests.faults.pool import WorkerPool

BEFORE_END = [failpoint for failpoint in failpoints() if failpoint != ("film committed", -1)]
SOME = [("segment rendered", 1), ("message sent", 1), ("clip stored", 1), ("film joined", -1)]
OTHERS = [failpoint for failpoint in BEFORE_END if failpoint not in SOME]


def submit_held_at(pool: WorkerPool, point: str, index: int) -> tuple[Job, list[Hold]]:
    """Submit a job and hold it at a failpoint; the other worker cannot join its film meanwhile."""
    film = [pool.hold("film claimed", -1)] if (point, index) == ("message sent", -1) else []
    hold, job, _ = pool.submit_and_hold(point, index)
    return job, [hold, *film]


def cancel_at(pool: WorkerPool, film: str, point: str, index: int) -> None:
    # Given
    job, holds = submit_held_at(pool, point, index)
    # When
    job.cancel()
    before = job.status()
    for hold in holds:
        hold.release()
    pool.wait_idle()
    # Then nothing more is committed, and the worker is free
    assert job.status() == before
    assert before.state == "cancelled"
    assert before.film is None
    assert len(pool.jobs.handoffs(job.id)) == before.committed
    pool.verify(pool.submit(), film)
    pool.wait_idle()


@pytest.mark.parametrize(("point", "index"), SOME)
def test_a_job_cancelled_at(pool: WorkerPool, undisturbed: str, point: str, index: int) -> None:
    cancel_at(pool, undisturbed, point, index)


@pytest.mark.faults
@pytest.mark.parametrize(("point", "index"), OTHERS)
def test_a_job_cancelled_anywhere(pool: WorkerPool, undisturbed: str, point: str, index: int) -> None:
    cancel_at(pool, undisturbed, point, index)


def started_units_are_committed(pool: WorkerPool, job: Job) -> bool:
    """Whether every claimed segment has its handoff and its clip, and a claimed film is committed."""
    status, claimed = job.status(), set(pool.count(job, "segment claimed"))
    film_claimed = bool(pool.count(job, "film claimed"))
    segments_done = claimed == set(range(status.committed))
    return segments_done and status.clips == status.committed and film_claimed == bool(status.film)


def pause_at(pool: WorkerPool, film: str, point: str, index: int) -> None:
    # Given
    job, holds = submit_held_at(pool, point, index)
    # When
    job.pause()
    claims = pool.claims(job)
    for hold in holds:
        hold.release()
    pool.wait_idle()
    # Then claimed units are finished, and nothing else is claimed
    wait_until(lambda: started_units_are_committed(pool, job), what="the claimed units to finish")
    assert pool.claims(job) == claims
    film_claimed = bool(pool.count(job, "film claimed"))
    assert job.status().state == ("done" if film_claimed else "paused")
    # When it is resumed, Then its film is right
    if not film_claimed:
        job.resume()
    pool.verify(job, film)
    pool.wait_idle()


@pytest.mark.parametrize(("point", "index"), SOME)
def test_a_job_paused_at(pool: WorkerPool, undisturbed: str, point: str, index: int) -> None:
    pause_at(pool, undisturbed, point, index)


@pytest.mark.faults
@pytest.mark.parametrize(("point", "index"), OTHERS)
def test_a_job_paused_anywhere(pool: WorkerPool, undisturbed: str, point: str, index: int) -> None:
    pause_at(pool, undisturbed, point, index)
