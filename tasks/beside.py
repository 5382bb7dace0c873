"""Work that goes on beside the main thread of a worker's child, one piece after the other."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections import deque
from typing import Protocol

log = logging.getLogger(__name__)
MOST_IN_HAND = 2
NICENESS = 10


class Work(Protocol):
    """Something to be done by whoever has the time."""

    def do(self) -> None:
        """Do it; whatever goes wrong is dealt with here."""
        ...

    def lay_down(self) -> None:
        """Leave it to another process, because this one ends."""
        ...


class Beside:
    """A thread that does what it is given, in order. It never has more than two pieces of work in its hands."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._in_hand: deque[Work] = deque()  # the first one is under way
        self._thread: threading.Thread | None = None

    def add(self, work: Work) -> None:
        """Hand `work` over; waits for room first."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._in_hand) < MOST_IN_HAND)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work_on, name="beside", daemon=True)
                self._thread.start()
            self._in_hand.append(work)
            self._changed.notify_all()

    def drain(self) -> None:
        """Return when nothing is in hand."""
        with self._changed:
            self._changed.wait_for(lambda: not self._in_hand)

    def lay_down(self) -> None:
        """Leave all that is in hand to other processes; this one ends."""
        with self._changed:
            left = list(self._in_hand)
        for work in left:
            try:
                work.lay_down()
            except Exception:
                log.exception("work could not be laid down; it is taken up when its lease has expired")

    def _work_on(self) -> None:
        if sys.platform == "linux":  # where a thread has a priority of its own, and those that it starts have it too
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        while True:
            self._work_once()

    def _work_once(self) -> None:
        # A function of its own, so that no variable keeps the frames of the last clip while nothing is to be done.
        with self._changed:
            self._changed.wait_for(lambda: self._in_hand)
            work = self._in_hand[0]
        try:
            work.do()
        except BaseException:  # also what would end a program: this thread goes on for those who wait for it
            log.exception("work beside the main thread has failed")
        finally:
            with self._changed:
                self._in_hand.popleft()
                self._changed.notify_all()
