"""What a worker process holds: the deployment, an engine, the state cache, the background thread."""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from typing import Any

from celery.platforms import EX_FAILURE
from kombu import Queue

from ltx2.media.clip_process import ClipProcess
from tasks.deployment import Deployment
from tasks.jobs.results import Claim
from tasks.jobs.units import UnitKind
from tasks.logs import SaidOnce, log_context
from tasks.messaging.topology import sticky_queue
from tasks.messaging.tracing import tracing
from tasks.settings import Settings
from tasks.worker.background import BackgroundThread
from tasks.worker.engines import EngineSlot
from tasks.worker.heartbeats.activity import ActivityBoard
from tasks.worker.heartbeats.heartbeat import Heartbeat
from tasks.worker.heartbeats.shared_memory import BlobOutage, LoadCount, SharedMemory, SharedText, ShutdownFlag
from tasks.worker.state_cache import StateCache
from tasks.worker.track_cache import TrackCache

log = logging.getLogger(__name__)


class WorkerContext:
    """Everything that the tasks of one process share. It lives until the process ends, or `close` is called.

    worker: the name of this process. node: its worker, the same for all its processes. unusable: the process takes no
    more work, and ends at its next message: its device failed, and a new process may use it again. released: reasons of
    releases that were logged; they come back until another worker takes the work. claim: what this process works on.
    """

    def __init__(self, settings: Settings, *, node: str = "") -> None:
        self.settings = settings
        self.deployment = Deployment(settings, patient=True)
        self.engines = EngineSlot(settings, on_stuck=self._leave)
        self.claim: Claim | None = None
        self.states = StateCache()
        self.tracks = TrackCache()
        self.background = BackgroundThread()
        self.clips = ClipProcess()  # of the background thread
        self.worker = f"{socket.gethostname()}:{os.getpid()}"
        self.node = node
        self.unusable = False
        self.released = SaidOnce()

    def logging(self, claim: Claim) -> AbstractContextManager[None]:
        """Add the fields of a claim to every log line inside the block."""
        unit = claim.unit
        segment = None if unit.kind == UnitKind.FILM else unit.index
        return log_context(
            job=claim.job_id, unit=str(unit.kind), segment=segment, worker=self.worker, epoch=claim.epoch
        )

    def tracing(self, claim: Claim, *, sent_with: Mapping[str, Any] | None = None) -> AbstractContextManager[None]:
        """A span of the job's trace around a block that works on a claim. sent_with: the headers of its message."""
        unit = claim.unit
        values: dict[str, str | int] = {"worker": self.worker, "epoch": claim.epoch, "fence": claim.fence}
        if unit.kind != UnitKind.FILM:
            values["segment"] = unit.index
        if unit.take:
            values["take"] = unit.take
        return tracing.span(claim.job_id, str(unit.kind), sent_with, **values)

    def _leave(self, reason: str) -> None:
        """Release the claim and end this process, whose main thread waits for a rank that is gone."""
        log.error("this process ends, and is replaced: it is stuck", extra={"reason": reason})
        with suppress(Exception), Deployment(self.settings) as impatient:  # otherwise leases expire
            if self.claim is not None:
                released = impatient.jobs.release(self.claim)
                impatient.publisher.publish(self.claim.job_id, self.claim.unit, seen=released.ticket)
            self.background.release_all()
        os._exit(EX_FAILURE)

    def close(self) -> None:
        """Close the connections, and end the process that encodes clips."""
        self.clips.close()
        self.deployment.close()


class WorkerProcess:
    """This process as a worker, or as the child of one: its context, and what worker and child share in memory.

    The context is opened on first use; a forked child opens its own.
    """

    def __init__(self) -> None:
        self.shutdown = ShutdownFlag()
        self.host_fault = SharedText()
        self.render_class = SharedText()
        self.rank_fault = SharedText()
        self.loads = LoadCount()
        self.load_fault = SharedText()  # of the last child, if its ranks could not load the model; '' if it died
        self.blob_outage = BlobOutage()
        self.activity = ActivityBoard()
        self.heartbeat: Heartbeat | None = None
        self.token = secrets.token_hex(4)
        self._context: WorkerContext | None = None
        os.register_at_fork(after_in_child=self._leave_context_to_parent)

    def start_worker(self) -> None:
        """Become a worker of its own: share memory and token with its future children only. Call it before the fork."""
        for memory in vars(self).values():
            if isinstance(memory, SharedMemory):
                memory.reset()
        self.token = secrets.token_hex(4)

    def sticky_queue(self, worker: str) -> Queue:
        """The sticky queue of this worker; the token makes it unique even if two workers have one name."""
        return sticky_queue(f"{worker}.{self.token}")

    @property
    def context(self) -> WorkerContext:
        """The context of this process, with the settings of its environment."""
        if self._context is None:
            self._context = WorkerContext(Settings.from_env(), node=self.token)
        return self._context

    def close(self) -> None:
        """Close the context; a later use opens another."""
        if self._context is not None:
            self._context.close()
            self._context = None

    def _leave_context_to_parent(self) -> None:
        self._context = None


process = WorkerProcess()
"""This process. Celery's signals and tasks are functions of a module, so this is where they find what they share."""
