"""A worker that shuts down: by SIGTERM, by SIGQUIT, or as systemd does, by SIGTERM to all its processes.

A process that is held waits in a loop; an exception of its signal handler is raised there, as it would be anywhere.
While a clip is held, the main thread continues, and is held at the next segment.
"""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from tests.faults.harness import SEGMENTS, Event, Failpoint, FaultWorker, Hold, failpoints, segments_lost_at
from tests.faults.pool import WorkerPool

ShutDown = Callable[[FaultWorker, list[Hold]], bool]


def sigterm(worker: FaultWorker, holds: list[Hold]) -> bool:
    """Units in progress are finished."""
    worker.shut_down(signal.SIGTERM)
    worker.wait_for_log("Warm shutdown")
    for hold in holds:
        hold.release()
    return True


def sigquit(worker: FaultWorker, holds: list[Hold]) -> bool:
    """Units in progress are released."""
    worker.shut_down(signal.SIGQUIT)
    return False


def sigterm_to_all(worker: FaultWorker, holds: list[Hold]) -> bool:
    """Units in progress are released."""
    worker.shut_down(signal.SIGTERM, all_processes=True)
    return False


SHUTDOWNS = (sigterm, sigquit, sigterm_to_all)
SOME: list[tuple[ShutDown, Failpoint]] = [
    (sigterm, ("segment hydrated", 1)),
    (sigquit, ("segment rendered", 1)),
    (sigterm_to_all, ("segment committed", 1)),
    (sigterm_to_all, ("clip encoded", 1)),
    (sigterm, ("film joined", -1)),
]
ALL: list[tuple[ShutDown, Failpoint]] = [(how, failpoint) for how in SHUTDOWNS for failpoint in failpoints()]


def params(cases: list[tuple[ShutDown, Failpoint]]) -> list[object]:
    return [pytest.param(how, *failpoint, id="{}:{}@{}".format(how.__name__, *failpoint)) for how, failpoint in cases]


class Shutdown:
    """A job whose worker shuts down at a failpoint, and another worker that takes over."""

    def __init__(self, pool: WorkerPool, film: str, how: ShutDown, point: str, index: int) -> None:
        self._pool, self._film = pool, film
        at_clip = point.startswith("clip ") and index + 1 < SEGMENTS
        holds = [pool.hold("segment hydrated", index + 1)] if at_clip else []
        hold, self.job, self._worker = pool.submit_and_hold(point, index)
        for following in holds:
            following.wait()
        holds.append(hold)
        self._child = hold.wait()
        self._claims_before = self._claims()
        pool.mark_fault()
        finishes = how(self._worker, holds)
        if not finishes:
            self._worker.wait_exit()
        for each in holds:
            each.release()
        pool.scale(2)
        self._denoised_again = 0 if finishes else segments_lost_at(point)

    def check_worker_exits(self) -> None:
        """The worker exits, and has claimed nothing after the signal."""
        self._worker.wait_exit()
        assert self._claims() == self._claims_before

    def check_film(self) -> None:
        """The film is right, and only released segments were rendered again."""
        self._pool.verify(self.job, self._film, denoised_again=self._denoised_again)
        self._pool.wait_idle()

    def _claims(self) -> list[Event]:
        events = self._pool.events(self.job)
        return [event for event in events if event.point.endswith("claimed") and event.pid == self._child]


@pytest.mark.parametrize(("how", "point", "index"), params(SOME))
def test_a_worker_shut_down_at(pool: WorkerPool, undisturbed: str, how: ShutDown, point: str, index: int) -> None:
    # Given / When
    shutdown = Shutdown(pool, undisturbed, how, point, index)
    # Then
    shutdown.check_film()
    shutdown.check_worker_exits()


@pytest.mark.faults
@pytest.mark.parametrize(("how", "point", "index"), params([case for case in ALL if case not in SOME]))
def test_a_worker_shut_down_anywhere(pool: WorkerPool, undisturbed: str, how: ShutDown, point: str, index: int) -> None:
    # Given / When
    shutdown = Shutdown(pool, undisturbed, how, point, index)
    # Then
    shutdown.check_worker_exits()
    assert pool.attempts(shutdown.job) == 0
    shutdown.check_film()
