"""The background thread: order, queue limit, drain and release."""

from __future__ import annotations

import threading
import weakref

from tasks.worker.background import QUEUE_LIMIT, BackgroundThread
from tests.conftest import wait_until

TIMEOUT_S = 20.0


class RecordedWork:
    """Work that logs its run or release; it can block until `may_end` is set, and it can fail."""

    def __init__(self, log: list[str], name: str, *, blocks: bool = False, fails: bool = False) -> None:
        self.started, self.may_end = threading.Event(), threading.Event()
        self._log, self._name, self._fails = log, name, fails
        if not blocks:
            self.may_end.set()

    def run(self) -> None:
        self.started.set()
        assert self.may_end.wait(TIMEOUT_S)
        self._log.append(self._name)
        if self._fails:
            raise RuntimeError(f"{self._name} fails on purpose")

    def release(self) -> None:
        self._log.append(f"{self._name} released")
        if self._fails:
            raise RuntimeError(f"{self._name} fails on purpose")


def test_work_runs_in_order_even_if_some_of_it_fails() -> None:
    # Given
    log: list[str] = []
    background = BackgroundThread()
    # When
    for name in "abcd":
        background.add(RecordedWork(log, name, fails=name == "b"))
    background.drain()
    # Then
    assert log == ["a", "b", "c", "d"]


def test_add_blocks_while_the_queue_is_full() -> None:
    # Given a full queue, whose first work is running
    log: list[str] = []
    background = BackgroundThread()
    first = RecordedWork(log, "first", blocks=True)
    background.add(first)
    for number in range(QUEUE_LIMIT - 1):
        background.add(RecordedWork(log, f"next {number}"))
    # When
    third = RecordedWork(log, "third", blocks=True)
    adding = threading.Thread(target=background.add, args=(third,))
    adding.start()
    assert first.started.wait(TIMEOUT_S)
    # Then the third is not queued before the first has finished
    assert next(iter(background._queue)) is first
    assert len(background._queue) == QUEUE_LIMIT
    assert adding.is_alive()
    first.may_end.set()
    adding.join(TIMEOUT_S)
    assert not adding.is_alive()
    third.may_end.set()
    background.drain()
    assert log == ["first", "next 0", "third"]


class FatalWork:
    """Work that raises an error that is not an Exception."""

    def run(self) -> None:
        raise KeyboardInterrupt

    def release(self) -> None: ...


def test_release_all_releases_running_and_queued_work() -> None:
    # Given one running and one queued
    log: list[str] = []
    background = BackgroundThread()
    first = RecordedWork(log, "first", blocks=True, fails=True)
    background.add(first)
    background.add(RecordedWork(log, "second"))
    # When
    background.release_all()
    # Then both are released, although the first release fails
    assert log == ["first released", "second released"]
    first.may_end.set()
    background.drain()


def test_finished_work_is_freed() -> None:
    # Given
    background = BackgroundThread()
    work = RecordedWork([], "large")
    reference = weakref.ref(work)
    background.add(work)
    # When
    background.drain()
    del work
    # Then nothing refers to it, not even a cycle that waits for the garbage collector
    wait_until(lambda: reference() is None, timeout_s=5, what="the work to be freed")


def test_work_runs_after_a_fatal_error() -> None:
    # Given work that raises KeyboardInterrupt
    log: list[str] = []
    background = BackgroundThread()
    background.add(FatalWork())
    # When
    background.drain()
    background.add(RecordedWork(log, "next"))
    background.drain()
    # Then
    assert log == ["next"]
