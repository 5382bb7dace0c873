"""Reports the steps of a segment from a thread of its own, so that the denoising never waits for a server."""

from __future__ import annotations

import logging
import threading
import time
from contextvars import copy_context
from types import TracebackType
from typing import Any, Self

from celery import Task
from kombu.exceptions import OperationalError

from blobstore.redis.errors import is_out_of_memory
from tasks.jobs.connection import OUTAGES
from tasks.jobs.records import Progress
from tasks.logs import SaidOnce
from tasks.worker.claims.lease import Lease

log = logging.getLogger(__name__)
SHOW_EVERY_S = 0.25


class StepReporter:
    """Renews the lease with each step, and shows some in Flower. A context manager; leaving it waits for the thread.

    Only the newest step is kept: a server that is slow, or out, gets fewer reports.
    """

    def __init__(self, task: Task[..., Any], lease: Lease) -> None:
        self._task = task
        self._request = task.request  # Celery keeps it per thread
        self._lease = lease
        self._started = time.monotonic()
        self._shown = float("-inf")
        self._newest: Progress | None = None
        self._changed = threading.Event()
        self._done = False
        self._said = SaidOnce()
        self._thread = threading.Thread(target=copy_context().run, args=(self._run,), name="steps", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done = True
        self._changed.set()
        self._thread.join()  # a report that is late would replace the result of the task

    def on_step(self, step: int, steps: int) -> bool:
        """Note that a step has ended; False if a report has found that the claim is lost. An `ltx2.request.OnStep`."""
        seconds = (time.monotonic() - self._started) / step
        self._newest = Progress(self._lease.claim.index, step, steps, seconds)
        self._changed.set()
        return not self._lease.lost

    def _run(self) -> None:
        self._task.request_stack.push(self._request)
        while not self._done:
            self._changed.wait()
            self._changed.clear()
            newest, self._newest = self._newest, None
            if newest is not None:
                self._report(newest)

    def _report(self, progress: Progress) -> None:
        try:
            self._lease.renew(progress=progress)
        except OUTAGES:
            return  # the thread of the lease renews it after the outage
        except Exception as error:
            self._warn("progress could not be recorded", error)
        now = time.monotonic()
        if now - self._shown >= SHOW_EVERY_S or progress.step in (1, progress.steps):
            self._shown = now
            self._show(progress)

    def _show(self, progress: Progress) -> None:
        meta: dict[str, Any] = {"segment": progress.index, "step": progress.step, "steps": progress.steps}
        try:
            self._task.update_state(state="PROGRESS", meta=meta)
            self._task.send_event("task-progress", retry=False, **meta)
        except (*OUTAGES, OperationalError):
            pass  # the connection has logged it
        except Exception as error:
            self._warn("progress could not be sent", error)

    def _warn(self, what: str, error: Exception) -> None:
        if not is_out_of_memory(error) and self._said.is_new(f"{what}: {error}"):  # the wait for memory has logged it
            log.warning(what, extra={"reason": str(error)})
