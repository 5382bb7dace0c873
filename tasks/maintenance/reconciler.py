"""The reconciler: every few seconds, in one worker at a time, it republishes what is provably stuck."""

from __future__ import annotations

import logging
import secrets
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import redis

from blobstore import ManagedBlobStore
from tasks.jobs.connection import RETRY_EVERY_S
from tasks.jobs.keys import PREFIX
from tasks.jobs.queues import queue_of
from tasks.jobs.records import Need, NeedReason, WorkUnit
from tasks.jobs.store import JobStore
from tasks.maintenance.admission import admit_waiting, settle_ended
from tasks.maintenance.sweeper import Sweeper
from tasks.messaging.publisher import Publisher
from tasks.settings import Settings

log = logging.getLogger(__name__)
LOCK = f"{PREFIX}reconciler"
# A committed segment's worker is about to publish the next one; only after this long it is taken for dead.
UNPUBLISHED_GRACE_S = 3.0
LOST_MESSAGE_GRACE_S = 5.0
SWEEP_EVERY_S = 60.0
JOBS_PER_SURVEY = 50
_Message = tuple[str, WorkUnit, int]  # job, unit, ticket


@contextmanager
def _alone(what: str) -> Iterator[None]:
    """Let nothing that goes wrong with one job keep the others from being looked after."""
    try:
        yield
    except redis.ConnectionError:
        raise
    except Exception:
        log.exception("%s cannot be looked after", what)


class Reconciler:
    """Looks after the unfinished jobs of one deployment."""

    def __init__(
        self,
        client: redis.Redis,
        jobs: JobStore,
        blobs: ManagedBlobStore,
        publisher: Publisher,
        settings: Settings,
    ) -> None:
        self._name = secrets.token_hex(8)
        self._redis = client
        self._jobs = jobs
        self._blobs = blobs
        self._publisher = publisher
        self._settings = settings
        self._suspects: dict[_Message, float] = {}
        self._skipped: set[str] = set()
        self._reserved = sys.maxsize
        self._queues: dict[str, tuple[int, int]] = {}
        self._sweeper = Sweeper(jobs, blobs, retention_s=settings.retention_s)
        self._swept = self._pulsed = time.monotonic()
        self._stop = threading.Event()

    def run(self) -> None:
        """Reconcile until `stop` is called; an unreachable Redis is waited for."""
        while not self._stop.wait(self._settings.reconcile_s):
            try:
                self._pulse()
                if self._hold_lock():
                    self.reconcile()
                    self._sweep_sometimes()
            except Exception:
                log.exception("reconciling failed, trying again")

    def stop(self) -> None:
        """End `run`."""
        self._stop.set()

    def reconcile(self) -> int:
        """Look at every unfinished job once; returns how many messages were published."""
        now = time.monotonic()
        published = 0
        seen: set[_Message] = set()
        self._queues.clear()
        with _alone("jobs that wait for room"):
            self._admit()
        active = self._jobs.active()
        for first in range(0, len(active), JOBS_PER_SURVEY):
            if time.monotonic() - self._pulsed >= self._settings.reconcile_s:
                self._pulse()  # a long round is no outage
            for job_id, needs in self._jobs.surveys(active[first : first + JOBS_PER_SURVEY]):
                with _alone(f"job {job_id}"):
                    published += self._reconcile_job(job_id, needs, seen, now)
        self._suspects = {suspect: since for suspect, since in self._suspects.items() if suspect in seen}
        return published

    def _pulse(self) -> None:
        """Tell an outage from a silent worker, who would renew three times per lease, and soon after an outage."""
        silence_s = max(self._settings.lease_s / 3, 2 * self._settings.reconcile_s)
        grace_s, budget = self._settings.lease_s + RETRY_EVERY_S, self._settings.blob_budget_bytes
        self._jobs.pulse(silence_s=silence_s, grace_s=grace_s, budget_bytes=budget)
        self._pulsed = time.monotonic()

    def _admit(self) -> None:
        if not self._jobs.waits_for_room():
            return
        if self._settings.blob_budget_bytes:
            settle_ended(self._jobs, self._blobs)
            self._free_what_was_given_back()
        admit_waiting(self._jobs, self._publisher, self._settings.blob_budget_bytes)
        self._reserved = self._jobs.reserved_bytes()

    def _free_what_was_given_back(self) -> None:
        """Room that a forgotten job had reserved is there only when its blobs are gone, not a grace period later."""
        if self._jobs.reserved_bytes() < self._reserved:
            self._blobs.collect(grace_s=0)

    def _reconcile_job(self, job_id: str, needs: list[Need] | Exception, seen: set[_Message], now: float) -> int:
        if isinstance(needs, Exception):  # not raised: its traceback would hold this frame, and this frame holds it
            if job_id not in self._skipped:
                log.error("skipped: %s", needs, extra={"job": job_id})
            self._skipped.add(job_id)
            return 0
        self._skipped.discard(job_id)
        published = 0
        for need in needs:
            suspect = (job_id, need.unit, need.ticket)
            seen.add(suspect)
            if self._is_stuck(suspect, need, now):
                if self._publisher.publish(job_id, need.unit, seen=need.ticket):
                    published += 1
                    log.warning("published again", extra={"job": job_id, "unit": need.unit, "reason": need.why})
        return published

    def _is_stuck(self, suspect: _Message, need: Need, now: float) -> bool:
        if need.why == NeedReason.EXPIRED:
            return True
        if need.why == NeedReason.WAITING and not self._message_is_gone(need):
            self._suspects.pop(suspect, None)
            return False
        grace = LOST_MESSAGE_GRACE_S if need.why == NeedReason.WAITING else UNPUBLISHED_GRACE_S
        return now - self._suspects.setdefault(suspect, now) >= grace

    def _message_is_gone(self, need: Need) -> bool:
        length, claimed = self._look_at(queue_of(need.unit))
        return length == 0 or claimed > need.stamp

    def _look_at(self, queue: str) -> tuple[int, int]:
        """How many messages wait in a queue and the highest stamp claimed from it, looked up once in a round."""
        if queue not in self._queues:
            self._queues[queue] = (self._redis.llen(queue), self._jobs.queue_claimed(queue))
        return self._queues[queue]

    def _hold_lock(self) -> bool:
        """One reconciler at a time; the lock outlives a few of its holder's rounds and then passes on."""
        lease_ms = int(self._settings.reconcile_s * 3000)
        if self._redis.set(LOCK, self._name, nx=True, px=lease_ms):
            return True
        if self._redis.get(LOCK) != self._name.encode():
            return False
        self._redis.pexpire(LOCK, lease_ms)
        return True

    def _sweep_sometimes(self) -> None:
        if time.monotonic() - self._swept >= SWEEP_EVERY_S:
            self._swept = time.monotonic()
            self._sweeper.sweep()
