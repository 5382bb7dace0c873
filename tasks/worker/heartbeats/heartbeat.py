"""The heartbeat of a worker: a thread of its main process that writes what the worker is and does into Redis."""

from __future__ import annotations

import logging
import os
import platform
import socket
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace

import redis

from blobstore import BlobStoreError, BlobStoreUnavailableError, ManagedBlobStore, open_blob_store
from tasks.jobs.connection import OUTAGES, connect, server_time
from tasks.jobs.workers import Versions, WorkerInfo, WorkerRegistry
from tasks.settings import Settings
from tasks.worker.heartbeats.activity import ActivityBoard
from tasks.worker.heartbeats.shared_memory import BlobOutage, SharedText, ShutdownFlag
from tasks.worker.heartbeats.versions import version_of

log = logging.getLogger(__name__)
BEAT_EVERY_S = 3.0
BEATS_PER_LEASE = 5  # at least, of a lease of five seconds or more
SHORTEST_PAUSE_S = 1.0
BLOB_TIMEOUT_S = 2.0
LIFE_S = 15.0  # how long an entry outlives its last heartbeat
FAULT_LIFE_S = 600.0  # and that of a worker that ended by a host fault
LAST_BEAT_TIMEOUT_S = 3.0
LONGEST_ROUND_TRIP_S = 1.0  # a slower answer does not tell the difference of two clocks
NAME_CHECKS = 3
PACKAGES = ("longtake", "celery", "torch", "diffusers")


class Heartbeat:
    """Writes the entry of one worker every few seconds, until it ends.

    Its connection is opened in its own thread once the worker is ready. One that existed at the first fork would be
    shared with the child.
    """

    def __init__(
        self,
        settings: Settings,
        info: WorkerInfo,
        board: ActivityBoard,
        shutdown: ShutdownFlag,
        blob_outage: BlobOutage,
        render_class: SharedText,
    ) -> None:
        self._settings = settings
        self._info = info
        self._board = board
        self._shutdown = shutdown
        self._blob_outage = blob_outage
        self._render_class = render_class
        self._pause_s = beat_every_s(settings.lease_s)
        self._done = threading.Event()
        self._writing = threading.Lock()
        self._fault: str | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Write from now on."""
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Remove the entry: the worker ends."""
        self._done.set()
        if self._thread is not None:
            self._thread.join(LAST_BEAT_TIMEOUT_S)

    def end_by_fault(self, reason: str) -> None:
        """Leave an entry with the reason for some minutes; returns within seconds, also in an outage."""
        self._fault = reason
        self._done.set()
        last = threading.Thread(target=self._leave_fault, name="last heartbeat", daemon=True)
        last.start()
        last.join(LAST_BEAT_TIMEOUT_S)

    def _run(self) -> None:
        client = self._connect()
        registry = WorkerRegistry(client)
        names = NameCheck(self._info)
        blobs = BlobCheck(self._settings, self._blob_outage, timeout_s=min(BLOB_TIMEOUT_S, self._pause_s))
        is_out = False
        while not self._done.is_set():
            try:
                blobs.check()
                self._beat(client, registry, life_s=LIFE_S)
                names.check(registry)
                is_out = False
            except OUTAGES:
                pass  # the connection has logged it
            except Exception as error:
                if not is_out:
                    log.warning("the heartbeat cannot be written, trying again: %s", error)
                is_out = True
            self._done.wait(self._pause_s)
        if self._fault is None:
            with suppress(redis.RedisError):  # then it expires
                registry.remove(self._info.token)

    def _leave_fault(self) -> None:
        with suppress(redis.RedisError):
            client = self._connect()
            self._beat(client, WorkerRegistry(client), life_s=FAULT_LIFE_S)

    def _connect(self) -> redis.Redis:
        return connect(self._settings.redis_url, reply_timeout_s=self._settings.reply_timeout_s)

    def _beat(self, client: redis.Redis, registry: WorkerRegistry, *, life_s: float) -> None:
        with self._writing:
            asked = time.time()
            now, answered = server_time(client), time.time()
            offset_s = (asked + answered) / 2 - now
            if answered - asked > LONGEST_ROUND_TRIP_S:
                offset_s = self._info.clock_offset_s
            self._info = replace(self._info, clock_offset_s=round(offset_s, 3))
            info = replace(
                self._info,
                started_at=self._info.started_at - offset_s,
                seen_at=now,
                children=self._board.children(clock_offset_s=offset_s),
                stopping=self._shutdown.is_set(),
                blob_outage_s=round(self._blob_outage.seconds, 1),
                render_class=self._render_class.text,
                fault=self._fault,
            )
            registry.write(info, life_s=life_s)


def beat_every_s(lease_s: float) -> float:
    """Seconds between two heartbeats."""
    return min(BEAT_EVERY_S, max(SHORTEST_PAUSE_S, lease_s / BEATS_PER_LEASE))


class BlobCheck:
    """Tries with each heartbeat whether the blob server takes writes from this host; the children read the result."""

    def __init__(self, settings: Settings, outage: BlobOutage, *, timeout_s: float) -> None:
        self._blobs: ManagedBlobStore = open_blob_store(settings.blobs, patience_s=0.0, reply_timeout_s=timeout_s)
        self._outage = outage
        self._since: float | None = None

    def check(self) -> None:
        """Write a small key."""
        began = time.monotonic()
        try:
            self._blobs.check_writable()
        except BlobStoreUnavailableError:  # the connection has logged it
            if self._since is None:
                self._since = began
            self._outage.seconds = max(time.monotonic() - self._since, 0.001)
            return
        except BlobStoreError:
            pass  # it is reached; what is wrong, the next unit meets
        self._since, self._outage.seconds = None, 0.0


class NameCheck:
    """Warns once, soon after a worker's start, if another living worker has its name.

    The entry of a worker that died under this name stays for some seconds, so one that beats again is waited for.
    """

    def __init__(self, info: WorkerInfo) -> None:
        self._info = info
        self._left = NAME_CHECKS
        self._seen: dict[str, float] = {}

    def check(self, registry: WorkerRegistry) -> None:
        """Look at the others, unless that was done often enough."""
        if not self._left:
            return
        self._left -= 1
        for other in registry.read().living:
            if other.name != self._info.name or other.token == self._info.token:
                continue
            if other.seen_at > self._seen.setdefault(other.token, other.seen_at):
                log.warning(
                    "another worker, process %d on %s, has the name %s, too: give each worker its own --name",
                    other.pid,
                    other.host,
                    other.name,
                )
                self._left = 0


def describe_worker(settings: Settings, name: str, token: str, queues: Iterable[str]) -> WorkerInfo:
    """What does not change while this worker lives; times are of this host's clock."""
    now = time.time()
    return WorkerInfo(
        token=token,
        name=name,
        host=socket.gethostname(),
        pid=os.getpid(),
        started_at=now,
        seen_at=now,
        clock_offset_s=0.0,
        model=settings.model,
        engine=settings.engine,
        queues=tuple(sorted(queues)),
        versions=Versions(python=platform.python_version(), **{name: version_of(name) for name in PACKAGES}),
    )
