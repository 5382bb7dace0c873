"""Work beside the main thread: in order, bounded, and ended in peace or laid down."""

from __future__ import annotations

import threading
import weakref

from tasks.beside import MOST_IN_HAND, Beside
from tests.conftest import wait_until

TIMEOUT_S = 20.0


class Piece:
    """Work that goes on until it is let go, if that is asked for, and notes what became of it."""

    def __init__(self, log: list[str], name: str, *, waits: bool = False, fails: bool = False) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()
        self._log, self._name, self._fails = log, name, fails
        if not waits:
            self.may_end.set()

    def do(self) -> None:
        self.begun.set()
        assert self.may_end.wait(TIMEOUT_S)
        self._log.append(self._name)
        if self._fails:
            raise RuntimeError(f"{self._name} was told to fail")

    def lay_down(self) -> None:
        self._log.append(f"{self._name} laid down")
        if self._fails:
            raise RuntimeError(f"{self._name} was told to fail")


def test_work_is_done_in_order_whatever_fails() -> None:
    # Given
    log: list[str] = []
    beside = Beside()
    # When
    for name in "abcd":
        beside.add(Piece(log, name, fails=name == "b"))
    beside.drain()
    # Then
    assert log == ["a", "b", "c", "d"]


def test_whoever_brings_a_third_piece_waits_until_there_is_room() -> None:
    # Given as many as it takes, the first one under way
    log: list[str] = []
    beside = Beside()
    first = Piece(log, "first", waits=True)
    beside.add(first)
    for number in range(MOST_IN_HAND - 1):
        beside.add(Piece(log, f"next {number}"))
    # When
    third = Piece(log, "third", waits=True)
    bringing = threading.Thread(target=beside.add, args=(third,))
    bringing.start()
    assert first.begun.wait(TIMEOUT_S)
    # Then it is not taken while the first one is not done
    assert next(iter(beside._in_hand)) is first
    assert len(beside._in_hand) == MOST_IN_HAND
    assert bringing.is_alive()
    first.may_end.set()
    bringing.join(TIMEOUT_S)
    assert not bringing.is_alive()
    third.may_end.set()
    beside.drain()
    assert log == ["first", "next 0", "third"]


class Fatal:
    """Work that raises what no piece of work should."""

    def do(self) -> None:
        raise KeyboardInterrupt

    def lay_down(self) -> None: ...


def test_what_is_in_hand_is_laid_down() -> None:
    # Given one under way and one that waits
    log: list[str] = []
    beside = Beside()
    first = Piece(log, "first", waits=True, fails=True)
    beside.add(first)
    beside.add(Piece(log, "second"))
    # When
    beside.lay_down()
    # Then both are, although one of them cannot
    assert log == ["first laid down", "second laid down"]
    first.may_end.set()
    beside.drain()


def test_what_is_done_is_not_kept() -> None:
    # Given
    beside = Beside()
    piece = Piece([], "large")
    kept = weakref.ref(piece)
    beside.add(piece)
    # When
    beside.drain()
    del piece
    # Then nothing holds it, not even a cycle that the garbage collector has yet to find
    wait_until(lambda: kept() is None, timeout_s=5, what="the piece to be let go")


def test_what_ends_its_thread_leaves_room_for_the_next() -> None:
    # Given a piece that raises what is no Exception
    log: list[str] = []
    beside = Beside()
    beside.add(Fatal())
    # When
    beside.drain()
    beside.add(Piece(log, "next"))
    beside.drain()
    # Then
    assert log == ["next"]
