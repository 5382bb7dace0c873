"""Rolling restarts: workers shut down and are replaced by new ones while jobs run."""

from __future__ import annotations

import signal

import pytest

from tests.faults.conftest import film_of
from tests.faults.pool import WorkerPool

RESTARTS = 3 * 3
SEGMENTS = RESTARTS + 1


@pytest.mark.faults
@pytest.mark.timeout(600)  # nine workers stop and start
def test_three_workers_replaced_in_turn_three_times(pool: WorkerPool) -> None:
    # Given three workers and a long job
    workers = [worker.ready() for worker in pool.scale(3)]
    film = film_of(pool, SEGMENTS)
    hold = pool.hold("segment hydrated", 0)
    job = pool.submit(SEGMENTS)
    # When each in turn shuts down while a segment is rendered, by itself or by another
    pool.mark_fault()
    for restart in range(1, RESTARTS + 1):
        hold.wait()
        workers[0].shut_down(signal.SIGTERM)
        workers[0].wait_for_log("Warm shutdown")
        following = pool.hold("segment hydrated", restart)
        hold.release()
        workers[0].wait_exit()
        workers, hold = [worker.ready() for worker in pool.scale(3)], following
    hold.release()
    # Then nothing is rendered again
    pool.verify(job, film)
    pool.wait_idle()


def test_three_restarts_within_one_long_segment(pool: WorkerPool, undisturbed: str) -> None:
    # Given a segment that blocks in the engine
    job, release = pool.submit_blocked(1)
    # When the worker that renders it gets a cold shutdown, three times
    for all_processes in (False, True, False):
        worker = pool.worker_rendering(job, 1)
        pool.mark_fault()
        worker.shut_down(signal.SIGTERM if all_processes else signal.SIGQUIT, all_processes=all_processes)
        pool.scale(2)
    # Then the next worker renders it, and no attempt is counted
    pool.worker_rendering(job, 1)
    assert pool.attempts(job) == 0
    release.touch()
    pool.verify(job, undisturbed, denoised_again=3)
    pool.wait_idle()
