"""A worker that freezes until its lease has expired and another worker has the claim, and then continues."""

from __future__ import annotations

import signal

import pytest

from tasks.client.job import Job
from tasks.jobs.records import Handoff
from tests.conftest import wait_until
from tests.faults.pool import WorkerPool

FAILPOINTS = (("segment hydrated", 1), ("segment rendered", 1), ("segment stored", 1), ("clip stored", 2))
AFTER_FILM = [pytest.param(*case, marks=pytest.mark.faults) for case in FAILPOINTS[:-1]] + [FAILPOINTS[-1]]


def record(pool: WorkerPool, job: Job) -> tuple[list[Handoff], object, int]:
    """Everything that a late worker could change: handoffs, clips, number of claims."""
    return pool.jobs.handoffs(job.id), pool.jobs.clips(job.id), pool.claims(job)


@pytest.mark.parametrize(("point", "index"), FAILPOINTS)
def test_a_worker_that_continues_while_another_has_the_claim(
    pool: WorkerPool, undisturbed: str, point: str, index: int
) -> None:
    # Given a frozen worker, and another worker at the same failpoint of the same segment
    hold, job, late = pool.submit_and_hold(point, index)
    late_pid = hold.wait()
    wait_until(lambda: len(pool.jobs.clips(job.id)) == index, what="the clips before, encoded in the background")
    pool.mark_fault()
    late.freeze()
    second = pool.hold(point, index)
    assert second.wait() != late_pid
    before = record(pool, job)
    # When the late worker continues
    late.send(signal.SIGCONT)
    if point.startswith("clip"):  # a warm shutdown waits for the background thread
        late.shut_down(signal.SIGTERM)
        late.wait_exit()
    wait_until(lambda: pool.unacknowledged() == 1, what="the late worker to drop its segment")
    # Then its commit is refused
    assert record(pool, job) == before
    assert late_pid not in pool.pids_at(job, f"{point.split()[0]} committed", index)
    second.release()
    pool.verify(job, undisturbed, denoised_again=int(point.startswith("segment")))
    pool.wait_idle()
    worker = pool.jobs.handoffs(job.id)[index].worker
    assert worker.endswith(f":{late_pid}") == point.startswith("clip")


@pytest.mark.parametrize(("point", "index"), AFTER_FILM)
def test_a_worker_that_continues_after_the_film(pool: WorkerPool, undisturbed: str, point: str, index: int) -> None:
    # Given a frozen worker, and a job that others have finished
    hold, job, late = pool.submit_and_hold(point, index)
    pool.mark_fault()
    late.freeze()
    job.wait()
    before = record(pool, job)
    # When
    hold.release()
    late.send(signal.SIGCONT)
    pool.wait_idle()
    # Then nothing changes
    assert record(pool, job) == before
    pool.verify(job, undisturbed, denoised_again=int(point.startswith("segment")))
