"""The reconciler: publishes again what is provably stuck, every few seconds."""

from __future__ import annotations

import logging
import re
import secrets
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import redis

from blobstore import BlobStoreUnavailableError, ManagedBlobStore, open_blob_store
from blobstore.redis.errors import reply_of
from blobstore.redis.outages import REFUSALS
from tasks.errors import KeyTypeError, RecordError
from tasks.jobs.connection import IMPATIENCE_S, OUTAGES, RETRY_EVERY_S
from tasks.jobs.keys import RECONCILER_LOCK
from tasks.jobs.locks import ExpiringLock
from tasks.jobs.queues import queue_of
from tasks.jobs.reading.queue_states import QueueStates
from tasks.jobs.results import Need, NeedReason
from tasks.jobs.store import JobStore
from tasks.jobs.units import JobState, WorkUnit
from tasks.jobs.workers import WorkerInfo
from tasks.logs import SaidOnce
from tasks.maintenance.admission import admit_waiting, settle_ended
from tasks.maintenance.parts import open_parts
from tasks.maintenance.submissions import complete_submissions
from tasks.maintenance.sweeper import Sweeper
from tasks.messaging.publisher import Publisher
from tasks.messaging.tracing import tracing
from tasks.settings import Settings

log = logging.getLogger(__name__)
# The worker that committed a segment publishes the next one; after this long it is presumed dead.
UNPUBLISHED_GRACE_S = 3.0
LOST_MESSAGE_GRACE_S = 5.0
SWEEP_EVERY_S = 60.0
FAILED = "reconciling failed, trying again"
JOBS_PER_SURVEY = 50
# Errors that say something about the server, and nothing about the record.
SERVER_CODES = (*REFUSALS, "OOM", "NOSCRIPT", "NOPERM", "NOAUTH", "EXECABORT")
SERVER_STATE = re.compile(rf"\b({'|'.join(SERVER_CODES)})\b")
_Message = tuple[str, WorkUnit, int]  # job, unit, ticket


def open_reconciler_blobs(settings: Settings) -> ManagedBlobStore:
    """The blob store for a reconciler: each call is tried once.

    Stuck work waits for the end of a round, so a round must not wait for the end of an outage of the blob server.
    """
    timeout_s = min(settings.reply_timeout_s, IMPATIENCE_S)
    return open_blob_store(settings.blobs, ttl_s=settings.blob_grace_s, patience_s=0.0, reply_timeout_s=timeout_s)


class Reconciler:
    """The reconciler of one deployment."""

    def __init__(
        self,
        client: redis.Redis,
        jobs: JobStore,
        blobs: ManagedBlobStore,
        publisher: Publisher,
        settings: Settings,
    ) -> None:
        self._lock = ExpiringLock(client, RECONCILER_LOCK, secrets.token_hex(8))
        self._jobs = jobs
        self._blobs = blobs
        self._publisher = publisher
        self._settings = settings
        self._suspects: dict[_Message, float] = {}
        self._said = SaidOnce()
        self._reserved = sys.maxsize
        self._settled: set[tuple[float, str]] = set()
        self._queues: QueueStates = {}
        self._workers: tuple[WorkerInfo, ...] | None = None
        self._sweeper = Sweeper(jobs, blobs, retention_s=settings.retention_s, now=jobs.pulsed_at)
        self._swept = self._pulsed = time.monotonic()
        self._reached: float | None = None
        self._stop = threading.Event()

    def run(self) -> None:
        """Reconcile until `stop` is called; keeps trying while Redis is unreachable."""
        with suppress(*OUTAGES, redis.RedisError):  # the loop tries again
            self._pulse()  # so that the first gap is known for a jump of the clock or an outage
        while not self._stop.wait(self._settings.reconcile_s):
            try:
                self._pulse()
                if self._hold_lock():
                    self.reconcile()
                    self._sweep_if_due()
                self._said.forget(FAILED)
            except (*OUTAGES, redis.OutOfMemoryError):
                pass  # the connection, or the wait for memory, has logged it
            except Exception:
                if self._said.is_new(FAILED):
                    log.exception(FAILED)
            tracing.export_roots()

    def stop(self) -> None:
        """End `run`."""
        self._stop.set()

    @contextmanager
    def _isolated(self, what: str) -> Iterator[None]:
        """Log errors in this block once, except an outage of the broker, to reconcile other jobs."""
        try:
            yield
            self._said.forget(what)
        except (BlobStoreUnavailableError, KeyTypeError):
            pass  # the connection has logged it
        except (*OUTAGES, redis.OutOfMemoryError):
            raise
        except Exception:
            if self._said.is_new(what):
                log.exception("cannot reconcile %s, trying again", what)

    def reconcile(self) -> int:
        """Check every unfinished job once; returns how many messages were published."""
        now = time.monotonic()
        published = 0
        seen: set[_Message] = set()
        self._queues, self._workers = {}, None
        with self._isolated("jobs that are being submitted"):
            self._complete_submissions()
        with self._isolated("jobs that wait for admission"):
            self._admit()
        active, with_parts = self._jobs.active(), list[str]()
        for first in range(0, len(active), JOBS_PER_SURVEY):
            if time.monotonic() - self._pulsed >= self._settings.reconcile_s:
                self._pulse()  # so that a long round does not count as an outage
            for job_id, needs in self._jobs.surveys(active[first : first + JOBS_PER_SURVEY]):
                if needs is None:
                    tracing.job_ended(job_id, self._jobs)
                    continue
                with self._isolated(f"job {job_id}"):
                    published += self._reconcile_job(job_id, needs, seen, now)
                if isinstance(needs, list) and any(need.why == NeedReason.POSSIBLE for need in needs):
                    with_parts.append(job_id)
        with self._isolated("jobs with parts that could be rendered in parallel"):
            published += open_parts(self._jobs, self._publisher, with_parts)
        self._suspects = {suspect: since for suspect, since in self._suspects.items() if suspect in seen}
        return published

    def _pulse(self) -> None:
        """Record that Redis is reachable; after a gap, leases get extra time.

        A gap without an outage for this process is a jump of Redis' clock: holders renew their leases as usual.
        """
        before, last = time.monotonic(), self._reached
        silence_s = max(self._settings.lease_s / 3, 2 * self._settings.reconcile_s)
        is_unbroken = last is not None and before - last <= silence_s
        outage_grace_s = self._settings.lease_s + RETRY_EVERY_S
        grace_s = self._settings.lease_s / 3 + RETRY_EVERY_S if is_unbroken else outage_grace_s
        budget = self._settings.blob_budget_bytes
        counted_s = None if last is None else before - last
        found_gap = self._jobs.pulse(silence_s=silence_s, grace_s=grace_s, budget_bytes=budget, counted_s=counted_s)
        if found_gap and is_unbroken and time.monotonic() - before > silence_s:  # the call itself waited for the server
            self._jobs.pulse(silence_s=silence_s, grace_s=outage_grace_s, budget_bytes=budget, after_outage=True)
        self._reached = self._pulsed = time.monotonic()

    def _complete_submissions(self) -> None:
        """Complete what a client began; it is no harm if the client is still at it."""
        for job_id, error in complete_submissions(self._jobs, self._blobs):
            what = f"complete the submission of job {job_id}"
            if error is not None:
                self._skip(job_id, what, error)
                continue
            log.info("its submission was completed", extra={"job": job_id})
            self._said.forget(what)

    def _admit(self) -> None:
        if not self._jobs.waits_for_room():
            return
        if self._settings.blob_budget_bytes:
            settle_ended(self._jobs, self._blobs, self._settled)
            self._free_released_blobs()
        admit_waiting(self._jobs, self._publisher, self._settings.blob_budget_bytes)
        self._reserved = self._jobs.reserved_bytes()

    def _free_released_blobs(self) -> None:
        """Free blobs without a pin at once if reservations shrank.

        Waiting jobs need the space before the grace ends.
        """
        if self._jobs.reserved_bytes() < self._reserved:
            self._blobs.collect(grace_s=0)

    def _reconcile_job(self, job_id: str, needs: list[Need] | Exception, seen: set[_Message], now: float) -> int:
        what = f"reconcile job {job_id}"
        if isinstance(needs, Exception):  # raising it would make a reference cycle of traceback and frame
            if self._skip(job_id, what, needs):
                self._fail_if_damaged(job_id, needs)
            return 0
        self._said.forget(what)
        published = 0
        for need in needs:
            if need.why == NeedReason.POSSIBLE:
                continue
            suspect = (job_id, need.unit, need.ticket)
            seen.add(suspect)
            try:
                if not self._is_stuck(suspect, need, now) or not self._publisher.publish(
                    job_id, need.unit, seen=need.ticket
                ):
                    continue
            except RecordError as error:  # its message cannot be written
                log.error("its record is damaged", extra={"job": job_id, "reason": str(error)})
                self._fail(job_id, str(error))
                return published
            published += 1
            level = logging.INFO if need.why == NeedReason.WAITING else logging.WARNING  # as while a model loads
            log.log(level, "published again", extra={"job": job_id, "unit": need.unit, "reason": need.why})
        return published

    def _skip(self, job_id: str, what: str, error: Exception) -> bool:
        """Log once why something cannot be done for a job, and return whether it is new; each round tries again."""
        is_new = self._said.is_new(what)
        if is_new:
            log.error("cannot %s", what, extra={"job": job_id, "reason": reply_of(error)})
        return is_new

    def _fail_if_damaged(self, job_id: str, error: Exception) -> None:
        """Fail a job whose record is damaged; one that a newer version wrote is left to the workers of that version."""
        # a subclass says something about the server, such as a script that it has forgotten
        if type(error) is redis.ResponseError and not SERVER_STATE.search(str(error)):
            # if that is damaged too, the log line is all that can be done
            with suppress(redis.ResponseError, RecordError):
                self._fail(job_id, "its record is damaged; the log of a worker says how")

    def _fail(self, job_id: str, reason: str) -> None:
        self._jobs.stop(job_id, JobState.FAILED, reason)
        tracing.job_ended(job_id, self._jobs)

    def _is_stuck(self, suspect: _Message, need: Need, now: float) -> bool:
        if need.why == NeedReason.EXPIRED:
            return True
        if need.why == NeedReason.WAITING and not self._message_is_gone(need):
            self._suspects.pop(suspect, None)
            return False
        grace = LOST_MESSAGE_GRACE_S if need.why == NeedReason.WAITING else UNPUBLISHED_GRACE_S
        return now - self._suspects.setdefault(suspect, now) >= grace

    def _message_is_gone(self, need: Need) -> bool:
        if not self._queues:  # read once per round
            self._queues = self._jobs.queue_states()
        queue = queue_of(need.unit)
        return self._queues[queue, need.priority].has_lost(need.stamp) and not self._may_be_taken(queue)

    def _may_be_taken(self, queue: str) -> bool:
        """Whether a worker may have a message whose child still loads the model, and no other worker could work now.

        A child that ends after each task would find every message replaced, and load again.
        """
        if self._workers is None:
            self._workers = self._jobs.workers().living
        takers = [worker for worker in self._workers if worker.takes(queue)]
        return bool(takers) and not any(worker.is_ready for worker in takers)

    def _hold_lock(self) -> bool:
        """Take or renew the active reconciler's lock, which expires after three rounds."""
        return self._lock.hold(3 * self._settings.reconcile_s)

    def _sweep_if_due(self) -> None:
        if time.monotonic() - self._swept >= SWEEP_EVERY_S:
            self._swept = time.monotonic()
            self._sweeper.sweep()
