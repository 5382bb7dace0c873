"""A job that a person cancels or pauses at any moment."""

from __future__ import annotations

import pytest

from tasks.client.job import Job
from tests.conftest import wait_until
from tests.faults.crew import Crew
from tests.faults.ground import Held, places

PLACES = [place for place in places() if place != ("film committed", -1)]
SOME = [("segment rendered", 1), ("message sent", 1), ("clip stored", 1), ("film joined", -1)]
OTHERS = [place for place in PLACES if place not in SOME]


def stopped_at(crew: Crew, point: str, index: int) -> tuple[Job, list[Held]]:
    """A job that has come to a point; the other worker does not join its film meanwhile."""
    film_too = [crew.hold("film claimed", -1)] if (point, index) == ("message sent", -1) else []
    held, job, _ = crew.held(point, index)
    return job, [held, *film_too]


def cancel_at(crew: Crew, film: str, point: str, index: int) -> None:
    job, stopped = stopped_at(crew, point, index)
    # When
    job.cancel()
    before = job.status()
    for held in stopped:
        held.release()
    crew.at_rest()
    # Then nothing was committed any more, and the worker is free
    assert job.status() == before
    assert before.state == "cancelled"
    assert before.film is None
    assert len(crew.jobs.handoffs(job.id)) == before.committed
    crew.verify(crew.submit(), film)
    crew.at_rest()


@pytest.mark.parametrize(("point", "index"), SOME)
def test_a_job_cancelled_at(crew: Crew, undisturbed: str, point: str, index: int) -> None:
    cancel_at(crew, undisturbed, point, index)


@pytest.mark.faults
@pytest.mark.parametrize(("point", "index"), OTHERS)
def test_a_job_cancelled_anywhere(crew: Crew, undisturbed: str, point: str, index: int) -> None:
    cancel_at(crew, undisturbed, point, index)


def is_finished_so_far(crew: Crew, job: Job) -> bool:
    """Every segment that was begun has its handoff and its clip; a film that was begun is there."""
    status, begun = job.status(), set(crew.count(job, "segment claimed"))
    film_begun = bool(crew.count(job, "film claimed"))
    return (
        begun == set(range(status.committed)) and status.clips == status.committed and film_begun == bool(status.film)
    )


def pause_at(crew: Crew, film: str, point: str, index: int) -> None:
    job, stopped = stopped_at(crew, point, index)
    # When
    job.pause()
    handed_out = crew.claims(job)
    for held in stopped:
        held.release()
    crew.at_rest()
    # Then what was under way is finished, and nothing else was begun
    wait_until(lambda: is_finished_so_far(crew, job), what="what was under way")
    assert crew.claims(job) == handed_out
    film_begun = bool(crew.count(job, "film claimed"))
    assert job.status().state == ("done" if film_begun else "paused")
    if not film_begun:
        job.resume()
    crew.verify(job, film)
    crew.at_rest()


@pytest.mark.parametrize(("point", "index"), SOME)
def test_a_job_paused_at(crew: Crew, undisturbed: str, point: str, index: int) -> None:
    pause_at(crew, undisturbed, point, index)


@pytest.mark.faults
@pytest.mark.parametrize(("point", "index"), OTHERS)
def test_a_job_paused_anywhere(crew: Crew, undisturbed: str, point: str, index: int) -> None:
    pause_at(crew, undisturbed, point, index)
