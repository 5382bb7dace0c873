"""A worker that is told to leave: by SIGTERM, by SIGQUIT, or as systemd does, by SIGTERM to all its processes at once.

A process that stops at a point waits in a loop there; what its handler raises comes out at that line, as anywhere else.
While it stops at a clip, its main thread goes on, and is stopped at the next segment.
"""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from tests.faults.crew import Crew
from tests.faults.ground import SEGMENTS, Event, FaultWorker, Held, lost_with, places

Place = tuple[str, int]
Way = Callable[[FaultWorker, list[Held]], bool]


def sigterm(worker: FaultWorker, held: list[Held]) -> bool:
    """What is under way is finished."""
    worker.shut_down(signal.SIGTERM)
    worker.says("Warm shutdown")
    for stopped in held:
        stopped.release()
    return True


def sigquit(worker: FaultWorker, held: list[Held]) -> bool:
    """What is under way is laid down."""
    worker.shut_down(signal.SIGQUIT)
    return False


def sigterm_to_all(worker: FaultWorker, held: list[Held]) -> bool:
    """What is under way is laid down."""
    worker.shut_down(signal.SIGTERM, everyone=True)
    return False


WAYS = (sigterm, sigquit, sigterm_to_all)
SOME: list[tuple[Way, Place]] = [
    (sigterm, ("segment hydrated", 1)),
    (sigquit, ("segment rendered", 1)),
    (sigterm_to_all, ("segment committed", 1)),
    (sigterm_to_all, ("clip encoded", 1)),
    (sigterm, ("film joined", -1)),
]
OTHERS: list[tuple[Way, Place]] = [(way, place) for way in WAYS for place in places() if (way, place) not in SOME]


def named(cases: list[tuple[Way, Place]]) -> list[object]:
    return [pytest.param(way, *place, id="{}:{}@{}".format(way.__name__, *place)) for way, place in cases]


class Leaving:
    """A job whose worker was told to leave at some point, and another worker to go on."""

    def __init__(self, crew: Crew, film: str, way: Way, point: str, index: int) -> None:
        self._crew, self._film = crew, film
        at_a_clip = point.startswith("clip ") and index + 1 < SEGMENTS
        held = [crew.hold("segment hydrated", index + 1)] if at_a_clip else []
        stopped, self.job, self._worker = crew.held(point, index)
        for place in held:
            place.pid()
        held.append(stopped)
        self._child = stopped.pid()
        self._claimed = self._claims()
        crew.breaks()
        finishes = way(self._worker, held)
        if not finishes:
            self._worker.gone()
        for place in held:
            place.release()
        crew.staff(2)
        self._again = 0 if finishes else lost_with(point)

    def is_gone(self) -> None:
        """The worker has ended, and took nothing more."""
        self._worker.gone()
        assert self._claims() == self._claimed

    def lost_nothing(self) -> None:
        """The film is the same, and only what was laid down was rendered again."""
        self._crew.verify(self.job, self._film, denoised_again=self._again)
        self._crew.at_rest()

    def _claims(self) -> list[Event]:
        events = self._crew.events(self.job)
        return [event for event in events if event.point.endswith("claimed") and event.pid == self._child]


@pytest.mark.parametrize(("way", "point", "index"), named(SOME))
def test_a_worker_told_to_leave_at(crew: Crew, undisturbed: str, way: Way, point: str, index: int) -> None:
    leaving = Leaving(crew, undisturbed, way, point, index)
    leaving.lost_nothing()
    leaving.is_gone()


@pytest.mark.faults
@pytest.mark.parametrize(("way", "point", "index"), named(OTHERS))
def test_a_worker_told_to_leave_anywhere(crew: Crew, undisturbed: str, way: Way, point: str, index: int) -> None:
    leaving = Leaving(crew, undisturbed, way, point, index)
    leaving.is_gone()
    assert crew.attempts(leaving.job) == 0
    leaving.lost_nothing()
