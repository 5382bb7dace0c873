"""A worker or its child that is killed: `kill -9`, or a machine that stops."""

from __future__ import annotations

import os
import signal

import psutil
import pytest

from tasks.client.job import Job
from tests.conftest import wait_until
from tests.faults.harness import FaultWorker
from tests.faults.pool import WorkerPool

HOURS = 3600


def wait_for_takeover(pool: WorkerPool, job: Job, index: int) -> None:
    """Wait until another worker renders the segment, hours before the broker redelivers the message."""
    assert pool.settings.visibility_timeout_s >= HOURS
    wait_until(lambda: len(set(pool.pids_at(job, "segment hydrated", index))) == 2, what=f"segment {index} again")


def has_ended(process: psutil.Process) -> bool:
    """Whether it has ended; it may remain as a zombie."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def verify_after_redelivery(pool: WorkerPool, job: Job, film: str, *, denoised_again: int) -> None:
    """Verify the job; then redeliver the killed worker's messages, which must change nothing."""
    pool.verify(job, film, denoised_again=denoised_again)
    before = pool.events(job)
    pool.redeliver()
    pool.wait_idle()
    assert pool.events(job) == before


def test_a_child_killed_inside_the_engine(pool: WorkerPool, undisturbed: str) -> None:
    # Given a worker that renders segment 1
    job, release = pool.submit_blocked(1)
    worker = pool.worker_rendering(job, 1)
    # When
    pool.mark_fault()
    os.kill(worker.pids[1], signal.SIGKILL)
    # Then the segment is rendered again, and the worker survives
    wait_for_takeover(pool, job, 1)
    release.touch()
    pool.verify(job, undisturbed, denoised_again=1)
    pool.wait_idle()
    assert worker.is_alive


def test_one_of_two_workers_killed(pool: WorkerPool, undisturbed: str) -> None:
    # Given a worker that renders segment 1
    job, release = pool.submit_blocked(1)
    worker = pool.worker_rendering(job, 1)
    child = psutil.Process(worker.pids[1])
    # When its main process is killed
    pool.mark_fault()
    os.kill(worker.process.pid, signal.SIGKILL)
    worker.wait_exit()
    # Then its child ends, and the other worker takes over
    wait_for_takeover(pool, job, 1)
    wait_until(lambda: has_ended(child), what="the end of the child")
    release.touch()
    verify_after_redelivery(pool, job, undisturbed, denoised_again=1)


@pytest.mark.faults
def test_both_of_two_workers_killed(pool: WorkerPool, undisturbed: str) -> None:
    # Given two workers that render one segment each
    jobs = [pool.submit_blocked(1), pool.submit_blocked(1)]
    both: list[FaultWorker] = [pool.worker_rendering(job, 1) for job, _ in jobs]
    assert both[0] is not both[1]
    # When both are killed and one worker is started
    pool.mark_fault()
    for worker in both:
        worker.kill()
    for _, release in jobs:
        release.touch()
    pool.scale(1)
    # Then it renders both segments again
    for job, _ in jobs:
        wait_for_takeover(pool, job, 1)
    for job, _ in jobs:
        verify_after_redelivery(pool, job, undisturbed, denoised_again=1)


def test_the_worker_with_the_active_reconciler_killed(pool: WorkerPool, undisturbed: str) -> None:
    # Given two workers that render one segment each; one has the active reconciler
    workers = {worker.ready().reconciler: worker for worker in pool.scale(2)}
    victim = workers[pool.active_reconciler()]
    jobs = [pool.submit_blocked(1), pool.submit_blocked(1)]
    both = [pool.worker_rendering(job, 1) for job, _ in jobs]
    # When it is killed
    pool.mark_fault()
    victim.kill()
    # Then the other worker renders both segments, and its reconciler becomes active
    for _, release in jobs:
        release.touch()
    job = jobs[both.index(victim)][0]
    wait_for_takeover(pool, job, 1)
    assert pool.active_reconciler() in set(workers) - {victim.reconciler}
    for (job, _), worker in zip(jobs, both, strict=True):
        verify_after_redelivery(pool, job, undisturbed, denoised_again=int(worker is victim))
