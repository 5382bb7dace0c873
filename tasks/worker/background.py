"""A background thread that runs queued work in order."""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Protocol

log = logging.getLogger(__name__)
QUEUE_LIMIT = 2


class BackgroundWork(Protocol):
    """One piece of work for the background thread."""

    def run(self) -> None:
        """Do it; handles its own errors."""
        ...

    def release(self) -> None:
        """Return it to the queue, because this process ends."""
        ...


class BackgroundThread:
    """Runs work in order. At most two pieces are queued or running at any time."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queue: deque[BackgroundWork] = deque()  # the first one is running
        self._thread: threading.Thread | None = None

    def add(self, work: BackgroundWork) -> None:
        """Queue `work`; blocks while two pieces are queued or running."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._queue) < QUEUE_LIMIT)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run_forever, name="background", daemon=True)
                self._thread.start()
            self._queue.append(work)
            self._changed.notify_all()

    def drain(self) -> None:
        """Return when nothing is queued or running."""
        with self._changed:
            self._changed.wait_for(lambda: not self._queue)

    def release_all(self) -> None:
        """Release everything that is queued or running, because this process ends."""
        with self._changed:
            queued = list(self._queue)
        for work in queued:
            try:
                work.release()
            except Exception:
                log.exception("background work could not be released; its lease will expire")

    def _run_forever(self) -> None:
        while True:
            self._run_next()

    def _run_next(self) -> None:
        # A function of its own: a loop variable would keep the frames of the last clip alive while the thread is idle.
        with self._changed:
            self._changed.wait_for(lambda: self._queue)
            work = self._queue[0]
        try:
            work.run()
        except BaseException:  # SystemExit too: callers of `drain` still wait for this thread
            log.exception("background work failed")
        finally:
            with self._changed:
                self._queue.popleft()
                self._changed.notify_all()
