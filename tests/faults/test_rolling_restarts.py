"""Releases: every worker is told to leave and replaced by a new one, while jobs run."""

from __future__ import annotations

import signal

import pytest

from tests.faults.conftest import film_of
from tests.faults.crew import Crew

RESTARTS = 3 * 3
SEGMENTS = RESTARTS + 1


@pytest.mark.faults
@pytest.mark.timeout(600)  # nine workers end and start
def test_all_of_three_workers_replaced_in_turn_three_times(crew: Crew) -> None:
    # Given
    workers = [worker.ready() for worker in crew.staff(3)]
    film = film_of(crew, SEGMENTS)
    held = crew.hold("segment hydrated", 0)
    job = crew.submit(SEGMENTS)
    # When each leaves while a segment is under way, in its hands or another's
    crew.breaks()
    for restart in range(1, RESTARTS + 1):
        held.pid()
        workers[0].shut_down(signal.SIGTERM)
        workers[0].says("Warm shutdown")
        following = crew.hold("segment hydrated", restart)
        held.release()
        workers[0].gone()
        workers, held = [worker.ready() for worker in crew.staff(3)], following
    held.release()
    # Then
    crew.verify(job, film)
    crew.at_rest()


def test_three_releases_within_one_long_segment(crew: Crew, undisturbed: str) -> None:
    # Given
    job, gate = crew.waiting(1)
    # When whoever renders it is told to leave at once, three times
    for everyone in (False, True, False):
        worker = crew.in_the_engine(job, 1)
        crew.breaks()
        worker.shut_down(signal.SIGTERM if everyone else signal.SIGQUIT, everyone=everyone)
        crew.staff(2)
    # Then it goes on with the next one, and nothing is counted against it
    crew.in_the_engine(job, 1)
    assert crew.attempts(job) == 0
    gate.touch()
    crew.verify(job, undisturbed, denoised_again=3)
    crew.at_rest()
