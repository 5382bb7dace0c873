"""The thread of a leader that watches its followers, so that no call waits for a rank that died or hangs."""

from __future__ import annotations

import logging
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait

from ltx2.errors import EngineMemoryError
from ltx2.group.follower import BEAT, FAILED, LONGEST_GAP_S
from ltx2.group.running_clock import RunningClock

log = logging.getLogger(__name__)
SILENT_S = 30.0
"""A follower speaks every second, unless it is stopped or its host has other work than it can do."""
START_S = 120.0
"""Until it has imported torch, which can take long on a cold disk."""
SETTLE_S = 30.0
"""After an error of one rank, the others have the same one within so long, or wait for it in vain. While a model is
loaded, ranks read files at their own pace, and have a whole timeout, unless the error is one of memory."""
ABORT_S = 10.0
"""So long after its followers were killed, an exchange of this process has ended, or never will."""
_END_S = 5.0
_MEMORY = EngineMemoryError.__name__
_POLL_S = 0.2


@dataclass
class FollowerProcess:
    """A follower as its leader sees it.

    heard_at: seconds on the clock of the `Watch`, which begins at 0. replies: to the calls; None: there will be none.
    """

    rank: int
    process: subprocess.Popen[bytes]
    connection: Connection
    heard_at: float = 0.0
    has_answered: bool = False
    replies: queue.SimpleQueue[bytes | None] = field(default_factory=queue.SimpleQueue)

    def __str__(self) -> str:
        return f"rank {self.rank} (process {self.process.pid})"


class Watch:
    """Reads what followers say. When one dies, is silent or does not keep up, it kills all: the group has a fault.

    timeout_s: how long one rank may wait for another. abort: ends exchanges of this process that wait for a killed one.
    on_stuck: called with the fault, in this thread, if a call of this process does not end nevertheless.
    """

    def __init__(
        self,
        followers: Sequence[FollowerProcess],
        *,
        timeout_s: float,
        abort: Callable[[], None],
        on_stuck: Callable[[str], None],
    ) -> None:
        self.fault: str | None = None
        self.settle_s = min(SETTLE_S, timeout_s)
        self._followers = followers
        self._timeout_s = timeout_s
        self._abort = abort
        self._on_stuck = on_stuck
        self._clock = RunningClock(LONGEST_GAP_S)
        self._calling = False
        self._moved_at = 0.0
        self._limit_s: float | None = None
        self._ended_at: float | None = None
        self._failed_at: float | None = None
        self._failure, self._settled_s = "", self.settle_s
        self._closing = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="ranks", daemon=True)

    def start(self) -> None:
        """Watch from now on, until there is a fault."""
        self._thread.start()

    @contextmanager
    def call(self, limit_s: float | None) -> Iterator[None]:
        """All ranks make a call in this block. limit_s: for this rank, until `moved`; None: none."""
        self._ended_at = self._failed_at = None
        self._moved_at, self._limit_s = self._clock.now(), limit_s
        self._calling = True
        try:
            yield
        finally:
            self._calling = False

    def moved(self) -> None:
        """This rank has made a step of the call, so that it compiles nothing any more: the next one comes soon."""
        self._moved_at, self._limit_s = self._clock.now(), self._timeout_s + self.settle_s

    def own_part_ended(self, error: Exception | None) -> None:
        """This rank has made the call, and waits for the others."""
        if error is not None:
            self._note_failure("rank 0", f"{type(error).__name__}: {error}")
        self._ended_at = self._clock.now()

    def fail(self, reason: str) -> None:
        """Give the group up: kill the followers, and end what this process exchanges with them."""
        if self.fault is None:  # else the followers were killed, which this thread sees, too
            log.error("the ranks of this process end: %s", reason)
        self.close(reason)

    def close(self, reason: str) -> None:
        """Kill the followers: every later call fails for this reason, unless there is an earlier one."""
        with self._closing:
            if self.fault is not None:
                return
            self.fault = reason
        for follower in self._followers:
            follower.process.kill()
            follower.replies.put(None)
        # neither must keep this thread: a process may be stuck in a driver
        threading.Thread(target=self._abort, name="abort", daemon=True).start()
        for follower in self._followers:
            with suppress(subprocess.TimeoutExpired):
                follower.process.wait(_END_S)

    def _run(self) -> None:
        by_connection = {follower.connection: follower for follower in self._followers}
        while self.fault is None:
            for connection in wait(list(by_connection), _POLL_S):
                self._hear(by_connection[connection])  # type: ignore[index]  # only connections are waited for
            if reason := self._overdue():
                self.fail(reason)
        until = self._clock.now() + ABORT_S
        while self._calling:
            if self._clock.now() > until:
                self._on_stuck(self.fault)
                return
            time.sleep(_POLL_S)

    def _hear(self, follower: FollowerProcess) -> None:
        try:
            message = follower.connection.recv_bytes()
        except (EOFError, OSError):
            try:
                status = follower.process.wait(_END_S)
            except subprocess.TimeoutExpired:
                self.fail(f"{follower} has closed its connection")
                return
            how = f"by signal {-status}" if status < 0 else f"with status {status}"
            self.fail(f"{follower} died {how}")
            return
        follower.heard_at = self._clock.now()
        if message != BEAT:
            follower.has_answered = True
            if message.startswith(FAILED):
                self._note_failure(str(follower), message.removeprefix(FAILED).decode(errors="replace"))
            follower.replies.put(message)

    def _note_failure(self, rank: str, error: str) -> None:
        """Keep the first error of a call. error: its class and message."""
        if self._failed_at is None:
            self._failed_at, self._failure = self._clock.now(), f"{rank} failed ({error})"
            self._settled_s = (
                self._timeout_s if self._limit_s is None and not error.startswith(_MEMORY) else self.settle_s
            )

    def _overdue(self) -> str | None:
        """Why the group has a fault by now, if it has one."""
        now = self._clock.now()
        for follower in self._followers:
            limit_s = min(SILENT_S, self._timeout_s) if follower.has_answered else START_S
            if now - follower.heard_at > limit_s:
                return f"no word from {follower} for {limit_s:g} s"
        if not self._calling:
            return None
        if self._ended_at is not None and now - self._ended_at > self._timeout_s:
            return f"another rank is not done {self._timeout_s:g} s after rank 0"
        if self._failed_at is not None and now - self._failed_at > self._settled_s:
            return f"{self._failure}, and another has not ended {self._settled_s:g} s later"
        if self._ended_at is None and self._limit_s is not None and now - self._moved_at > self._limit_s:
            return f"rank 0 has not gone on for {self._limit_s:g} s"
        return None
