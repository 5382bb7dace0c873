"""A worker that is stopped (a frozen machine, a long pause) until its lease has passed to another, and then goes on."""

from __future__ import annotations

import signal

import pytest

from tasks.client.job import Job
from tasks.jobs.records import Handoff
from tests.conftest import wait_until
from tests.faults.crew import Crew

PLACES = (("segment hydrated", 1), ("segment rendered", 1), ("segment stored", 1), ("clip stored", 2))
AFTER = [pytest.param(*place, marks=pytest.mark.faults) for place in PLACES[:-1]] + [PLACES[-1]]


def record(crew: Crew, job: Job) -> tuple[list[Handoff], object, int]:
    """All that a late worker could change."""
    return crew.jobs.handoffs(job.id), crew.jobs.clips(job.id), crew.claims(job)


@pytest.mark.parametrize(("point", "index"), PLACES)
def test_a_worker_that_goes_on_while_another_holds_its_work(
    crew: Crew, undisturbed: str, point: str, index: int
) -> None:
    # Given a worker that was stopped, and another that has come as far with the same work
    held, job, late = crew.held(point, index)
    late_pid = held.pid()
    wait_until(lambda: len(crew.jobs.clips(job.id)) == index, what="the clips before, which are made beside")
    crew.breaks()
    late.send(signal.SIGSTOP)
    second = crew.hold(point, index)
    assert second.pid() != late_pid
    before = record(crew, job)
    # When the late one goes on, and has done what it can
    late.send(signal.SIGCONT)
    if point.startswith("clip"):  # beside its main thread, and finished before it leaves
        late.shut_down(signal.SIGTERM)
        late.gone()
    wait_until(lambda: crew.unacknowledged() == 1, what="the late one to lay its work down")
    # Then it was refused
    assert record(crew, job) == before
    assert late_pid not in crew.pids(job, f"{point.split()[0]} committed", index)
    second.release()
    crew.verify(job, undisturbed, denoised_again=int(point.startswith("segment")))
    crew.at_rest()
    worker = crew.jobs.handoffs(job.id)[index].worker
    assert worker.endswith(f":{late_pid}") == point.startswith("clip")


@pytest.mark.parametrize(("point", "index"), AFTER)
def test_a_worker_that_goes_on_after_the_film(crew: Crew, undisturbed: str, point: str, index: int) -> None:
    # Given
    held, job, late = crew.held(point, index)
    crew.breaks()
    late.send(signal.SIGSTOP)
    job.wait()
    before = record(crew, job)
    # When
    held.release()
    late.send(signal.SIGCONT)
    crew.at_rest()
    # Then
    assert record(crew, job) == before
    crew.verify(job, undisturbed, denoised_again=int(point.startswith("segment")))
