"""A child killed while it renders a take, or while it makes the clip and the film that show it."""

from __future__ import annotations

import os
import signal

import pytest

from tasks.client.job import Job
from tasks.client.submit import submit
from tests.faults.harness import Harness
from tests.tasks.conftest import spec

TAKE_POINTS = [
    "segment claimed",
    "segment hydrated",
    "state stored",
    "segment rendered",
    "segment stored",
    "take stored",
    "take committed",
]
WHOLE_POINTS = [
    ("take stored", 1),
    ("take committed", 1),
    ("segment claimed", 2),
    ("segment hydrated", 2),
    ("state stored", 2),
    ("take stored", 2),
    ("take committed", 2),
]
CHOICE_POINTS = [
    ("clip encoded", 1),
    ("clip stored", 1),
    ("clip committed", 1),
    ("film joined", -1),
    ("film stored", -1),
]


@pytest.fixture(scope="module")
def harness(make_harness) -> Harness:  # type: ignore[no-untyped-def]
    """One worker for all tests of this module."""
    made = make_harness()
    made.start_worker().ready()
    return made


@pytest.fixture(scope="module")
def expected(harness: Harness) -> tuple[str, str, str]:
    """The hashes of a film of three segments, of it with a take of segment 1, and that take's latents, undisturbed."""
    job = film_job(harness)
    first = film_of(job)
    job.retake(1)
    job.wait().choose(1, 1)
    return first, film_of(job.wait()), latents_of(job)


def film_job(harness: Harness) -> Job:
    """A job of three segments that is done."""
    return submit(spec("a", "b", "c", frames=25), settings=harness.settings).wait()


def film_of(job: Job) -> str:
    film = job.status().film
    assert film
    return film.sha256


def latents_of(job: Job) -> str:
    made = job._deployment.jobs.takes(job.id).takes[1, 1].made
    assert made
    return str(made.latents)


@pytest.mark.faults
@pytest.mark.parametrize("point", TAKE_POINTS)
def test_a_child_killed_in_a_take(harness: Harness, expected: tuple[str, str, str], point: str) -> None:
    # Given
    job = film_job(harness)
    hold = harness.hold(point, 1)
    # When
    job.retake(1)
    os.kill(hold.wait(), signal.SIGKILL)
    job.wait()
    # Then it is rendered once, with the same bytes, and the film stands
    assert (film_of(job), latents_of(job)) == (expected[0], expected[2])
    assert harness.count(job, "take committed")[1] <= 1
    job.choose(1, 1)
    assert film_of(job.wait()) == expected[1]
    harness.wait_idle()


@pytest.mark.faults
@pytest.mark.parametrize(("point", "index"), CHOICE_POINTS)
def test_a_child_killed_in_a_choice(harness: Harness, expected: tuple[str, str, str], point: str, index: int) -> None:
    # Given
    job = film_job(harness)
    job.retake(1)
    job.wait()
    hold = harness.hold(point, index)
    # When
    job.choose(1, 1)
    pid = hold.wait()
    # Then the old film is there
    assert film_of(job) == expected[0]
    os.kill(pid, signal.SIGKILL)
    assert film_of(job.wait()) == expected[1]
    assert harness.count(job, "segment hydrated").total() == 4
    harness.wait_idle()


@pytest.mark.faults
@pytest.mark.parametrize(("point", "index"), WHOLE_POINTS)
def test_a_child_killed_in_a_take_of_several_segments(harness: Harness, point: str, index: int) -> None:
    # Given
    job = film_job(harness)
    first = film_of(job)
    hold = harness.hold(point, index)
    # When
    job.retake(1, last=2)
    os.kill(hold.wait(), signal.SIGKILL)
    job.wait()
    # Then the take goes on where it stopped: what was committed of it is not rendered again
    again = int(point not in ("take committed", "segment claimed"))
    assert harness.count(job, "segment hydrated").total() == 5 + again
    assert max(harness.count(job, "take committed").values()) <= 1
    assert film_of(job) == first
    # And it can be shown, and undone
    job.choose(1, 1)
    assert film_of(job.wait()) != first
    job.choose(1, 0)
    assert film_of(job.wait()) == first
    harness.wait_idle()
