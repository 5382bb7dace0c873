"""The program of a follower: makes the engine calls that the leader makes, and ends with it.

It reads packed messages from a connection that it inherits: a call, or the leader's verdict after a denoising step. It
answers a call with `done`, or with `failed` and the name and message of its error, and says every second that it lives.
It kills a leader whose whole process hangs, its watch thread too.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from ltx2.errors import LTX2Error
from ltx2.group.running_clock import RunningClock
from ltx2.processes import die_with_parent

BEAT = b"beat"
READY = b"ready"
DONE = b"done"
FAILED = b"failed "
GO_ON = b"go on"
STOP = b"stop"
BEAT_EVERY_S = 1.0
LONGEST_GAP_S = 2.0
"""A rank that looks at the others less often was stopped itself, and maybe they were, too: see `RunningClock`."""
FIRST_STEP_FACTOR = 6
"""A call may take this many times the timeout between two steps until its first step, because it may compile."""
LEADER_S = 60.0
"""The longest that a leader may be overdue until its follower kills it; three timeouts, if that is less."""
ERROR_BYTES = 1000
"""With more, a message might not be written as a whole."""
IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
"""The signals of a supervisor or a terminal, which are for the leader. It blocks them when it starts a follower."""


class Follower:
    """One rank other than 0."""

    def __init__(self, connection: Connection, arguments: list[str]) -> None:
        rank, count, self._device, folder, timeout_s = arguments
        self._rank, self._count, self._folder, self._timeout_s = int(rank), int(count), Path(folder), float(timeout_s)
        self._connection = connection
        self._writing = threading.Lock()
        self._messages: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._engine: Any = None
        self._ranks: Any = None
        self._leader, self._grace_s = os.getppid(), min(LEADER_S, 3 * self._timeout_s)
        self._leader_due: float | None = None
        self._clock = RunningClock(LONGEST_GAP_S)

    def run(self) -> None:
        """Follow until the leader ends."""
        for work in (self._read, self._beat, self._watch_leader):
            threading.Thread(target=work, name=work.__name__, daemon=True).start()
        from ltx2.group.rendezvous import join  # torch is slow to import, and this process is to beat meanwhile
        from ltx2.group.values import unpack

        self._say(READY)
        self._messages.get()
        self._ranks = join(self._rank, self._count, self._device, self._folder, timeout_s=self._timeout_s)
        self._say(DONE)
        while True:
            self._say(self._answer(*unpack(self._messages.get())))

    def _answer(self, name: str, positional: tuple[Any, ...], named: dict[str, Any]) -> bytes:
        self._expect_leader(None if name == "load" else FIRST_STEP_FACTOR * self._timeout_s)  # which may download
        try:
            if name == "load":
                self._load(*positional, **named)
            elif name == "run":
                self._engine.run(*positional, on_step=self._on_step, **named)
            else:
                getattr(self._engine, name)(*positional, **named)
        except Exception as error:
            is_fault = not isinstance(error, LTX2Error)
            if is_fault:
                sys.excepthook(type(error), error, error.__traceback__)
            settles_s = self._timeout_s if name == "load" else 0.0  # see `SETTLE_S` in `ltx2.group.watch`
            self._expect_leader(settles_s if is_fault else None)  # it ends the group for a fault
            return FAILED + f"{type(error).__name__}: {error}".encode()[:ERROR_BYTES]
        self._expect_leader(None)
        return DONE

    def _expect_leader(self, seconds: float | None) -> None:
        """Expect the leader to go on, or to end this process, within `seconds`; None: without a limit."""
        self._leader_due = None if seconds is None else self._clock.now() + seconds + self._grace_s

    def _load(self, engine: str, model: str, **settings: Any) -> None:
        self._engine = None
        self._engine = resolve_name(engine).load(model, device=self._device, ranks=self._ranks, **settings)

    def _on_step(self, step: int, steps: int) -> bool:
        """Wait for the leader's verdict, so that all ranks stop after the same step."""
        verdict = self._messages.get()
        self._expect_leader(self._timeout_s)
        return verdict == GO_ON

    def _read(self) -> None:
        try:
            while True:
                self._messages.put(self._connection.recv_bytes())
        except (EOFError, OSError):  # the leader has ended, whatever this process is doing
            os._exit(0)

    def _beat(self) -> None:
        while True:
            self._say(BEAT)
            time.sleep(BEAT_EVERY_S)

    def _watch_leader(self) -> None:
        """Kill a leader that is overdue. A thread of its own, because `_say` waits for a leader that reads nothing."""
        while True:
            now = self._clock.now()
            if (due := self._leader_due) is not None and now > due and os.getppid() == self._leader:
                os.kill(self._leader, signal.SIGKILL)
            time.sleep(BEAT_EVERY_S)

    def _say(self, message: bytes) -> None:
        try:
            with self._writing:
                self._connection.send_bytes(message)
        except OSError:
            os._exit(0)


def main() -> None:
    """`python -m ltx2.group.follower FD RANK COUNT DEVICE FOLDER SECONDS`."""
    die_with_parent()
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    Follower(Connection(int(sys.argv[1])), sys.argv[2:]).run()


if __name__ == "__main__":
    main()
