"""A worker, or a part of one, that is killed without a warning (kill -9, a machine that stops)."""

from __future__ import annotations

import os
import signal

import psutil
import pytest

from tasks.client.job import Job
from tests.conftest import wait_until
from tests.faults.crew import Crew
from tests.faults.ground import FaultWorker

HOURS = 3600


def runs_again_elsewhere(crew: Crew, job: Job, index: int) -> None:
    """The segment is in other hands, although the broker still keeps the message of the dead for hours."""
    assert crew.settings.visibility_timeout_s >= HOURS
    wait_until(lambda: len(set(crew.pids(job, "segment hydrated", index))) == 2, what=f"segment {index} again")


def has_ended(process: psutil.Process) -> bool:
    """Whether nothing but an entry in the table of processes is left."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def comes_to_rest(crew: Crew, job: Job, film: str, *, denoised_again: int) -> None:
    """The film is right, and stays so when the messages of the dead come back hours later."""
    crew.verify(job, film, denoised_again=denoised_again)
    before = crew.events(job)
    crew.redeliver()
    crew.at_rest()
    assert crew.events(job) == before


def test_a_child_killed_inside_the_engine(crew: Crew, undisturbed: str) -> None:
    # Given
    job, gate = crew.waiting(1)
    worker = crew.in_the_engine(job, 1)
    # When
    crew.breaks()
    os.kill(worker.pids[1], signal.SIGKILL)
    # Then
    runs_again_elsewhere(crew, job, 1)
    gate.touch()
    crew.verify(job, undisturbed, denoised_again=1)
    crew.at_rest()
    assert worker.is_alive


def test_a_worker_killed_with_another_beside_it(crew: Crew, undisturbed: str) -> None:
    # Given
    job, gate = crew.waiting(1)
    worker = crew.in_the_engine(job, 1)
    child = psutil.Process(worker.pids[1])
    # When its own process is killed, which takes the child along
    crew.breaks()
    os.kill(worker.process.pid, signal.SIGKILL)
    worker.gone()
    # Then
    runs_again_elsewhere(crew, job, 1)
    wait_until(lambda: has_ended(child), what="the end of the child")
    gate.touch()
    comes_to_rest(crew, job, undisturbed, denoised_again=1)


@pytest.mark.faults
def test_both_of_two_workers_killed_and_a_fresh_one_started_later(crew: Crew, undisturbed: str) -> None:
    # Given two segments in two hands
    jobs = [crew.waiting(1), crew.waiting(1)]
    both: list[FaultWorker] = [crew.in_the_engine(job, 1) for job, _ in jobs]
    assert both[0] is not both[1]
    # When
    crew.breaks()
    for worker in both:
        worker.kill()
    for _, gate in jobs:
        gate.touch()
    crew.staff(1)
    # Then
    for job, _ in jobs:
        runs_again_elsewhere(crew, job, 1)
    for job, _ in jobs:
        comes_to_rest(crew, job, undisturbed, denoised_again=1)


def test_the_worker_killed_whose_reconciler_works(crew: Crew, undisturbed: str) -> None:
    # Given a job in the hands of the worker that also looks after stuck jobs
    everybody = {worker.ready().reconciler: worker for worker in crew.staff(2)}
    looks_after = everybody[crew.lock_holder()]
    jobs = [crew.waiting(1), crew.waiting(1)]
    both = [crew.in_the_engine(job, 1) for job, _ in jobs]
    # When
    crew.breaks()
    looks_after.kill()
    # Then the other one does both
    for _, gate in jobs:
        gate.touch()
    job = jobs[both.index(looks_after)][0]
    runs_again_elsewhere(crew, job, 1)
    assert crew.lock_holder() in set(everybody) - {looks_after.reconciler}
    for (job, _), worker in zip(jobs, both, strict=True):
        comes_to_rest(crew, job, undisturbed, denoised_again=int(worker is looks_after))
