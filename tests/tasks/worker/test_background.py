"""Work beside the main thread: in order, bounded, and ended in peace or laid down."""

from __future__ import annotations

import threading
import weakref

from tasks.worker.background import QUEUE_LIMIT, BackgroundThread
from tests.conftest import wait_until

TIMEOUT_S = 20.0


class Piece:
    """Work that goes on until it is let go, if that is asked for, and notes what became of it."""

    def __init__(self, log: list[str], name: str, *, waits: bool = False, fails: bool = False) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()
        self._log, self._name, self._fails = log, name, fails
        if not waits:
            self.may_end.set()

    def run(self) -> None:
        self.begun.set()
        assert self.may_end.wait(TIMEOUT_S)
        self._log.append(self._name)
        if self._fails:
            raise RuntimeError(f"{self._name} was told to fail")

    def release(self) -> None:
        self._log.append(f"{self._name} laid down")
        if self._fails:
            raise RuntimeError(f"{self._name} was told to fail")


def test_work_is_done_in_order_whatever_fails() -> None:
    # Given
    log: list[str] = []
    background = BackgroundThread()
    # When
    for name in "abcd":
        background.add(Piece(log, name, fails=name == "b"))
    background.drain()
    # Then
    assert log == ["a", "b", "c", "d"]


def test_whoever_brings_a_third_piece_waits_until_there_is_room() -> None:
    # Given as many as it takes, the first one under way
    log: list[str] = []
    background = BackgroundThread()
    first = Piece(log, "first", waits=True)
    background.add(first)
    for number in range(QUEUE_LIMIT - 1):
        background.add(Piece(log, f"next {number}"))
    # When
    third = Piece(log, "third", waits=True)
    bringing = threading.Thread(target=background.add, args=(third,))
    bringing.start()
    assert first.begun.wait(TIMEOUT_S)
    # Then it is not taken while the first one is not done
    assert next(iter(background._queue)) is first
    assert len(background._queue) == QUEUE_LIMIT
    assert bringing.is_alive()
    first.may_end.set()
    bringing.join(TIMEOUT_S)
    assert not bringing.is_alive()
    third.may_end.set()
    background.drain()
    assert log == ["first", "next 0", "third"]


class Fatal:
    """Work that raises what no piece of work should."""

    def run(self) -> None:
        raise KeyboardInterrupt

    def release(self) -> None: ...


def test_what_is_queue_is_laid_down() -> None:
    # Given one under way and one that waits
    log: list[str] = []
    background = BackgroundThread()
    first = Piece(log, "first", waits=True, fails=True)
    background.add(first)
    background.add(Piece(log, "second"))
    # When
    background.release_all()
    # Then both are, although one of them cannot
    assert log == ["first laid down", "second laid down"]
    first.may_end.set()
    background.drain()


def test_what_is_done_is_not_kept() -> None:
    # Given
    background = BackgroundThread()
    piece = Piece([], "large")
    kept = weakref.ref(piece)
    background.add(piece)
    # When
    background.drain()
    del piece
    # Then nothing holds it, not even a cycle that the garbage collector has yet to find
    wait_until(lambda: kept() is None, timeout_s=5, what="the piece to be let go")


def test_what_ends_its_thread_leaves_room_for_the_next() -> None:
    # Given a piece that raises what is no Exception
    log: list[str] = []
    background = BackgroundThread()
    background.add(Fatal())
    # When
    background.drain()
    background.add(Piece(log, "next"))
    background.drain()
    # Then
    assert log == ["next"]
