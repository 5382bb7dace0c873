"""The reconciler: every few seconds, in one worker at a time, it republishes what is provably stuck."""

from __future__ import annotations

import logging
import secrets
import threading
import time

import redis

from blobstore import ManagedBlobStore
from tasks.broker import CLIPS, FILMS, SEGMENTS
from tasks.config import Settings
from tasks.jobs import PREFIX, JobStore
from tasks.publish import Publisher
from tasks.records import FILM_UNIT, SEGMENT_UNIT

log = logging.getLogger(__name__)
LOCK = f"{PREFIX}reconciler"
# A committed segment's worker is about to publish the next one; only after this long it is taken for dead.
UNPUBLISHED_GRACE_S = 3.0
LOST_MESSAGE_GRACE_S = 5.0
SWEEP_EVERY_S = 60.0
_Message = tuple[str, str, int, int]  # job, unit, index, ticket


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
        self._orphans: set[str] = set()
        self._swept = time.monotonic()
        self._stop = threading.Event()

    def run(self) -> None:
        """Reconcile until `stop` is called; an unreachable Redis is waited for."""
        while not self._stop.wait(self._settings.reconcile_s):
            try:
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
        for job_id in self._jobs.active():
            try:
                published += self._reconcile_job(job_id, seen, now)
            except redis.ConnectionError:
                raise
            except Exception:
                log.exception("job %s cannot be looked after", job_id)
        self._suspects = {suspect: since for suspect, since in self._suspects.items() if suspect in seen}
        return published

    def _reconcile_job(self, job_id: str, seen: set[_Message], now: float) -> int:
        published = 0
        for unit, index, why, stamp, ticket in self._jobs.survey(job_id):
            suspect = (job_id, unit, index, ticket)
            seen.add(suspect)
            if self._is_stuck(suspect, why, stamp, now):
                log.warning("job %s: %s is published again (%s)", job_id, unit, why)
                published += self._publisher.unit(job_id, unit, index)
        return published

    def _is_stuck(self, suspect: _Message, why: str, stamp: int, now: float) -> bool:
        if why == "expired":
            return True
        if why == "waiting" and not self._message_is_gone(suspect[1], stamp):
            self._suspects.pop(suspect, None)
            return False
        grace = LOST_MESSAGE_GRACE_S if why == "waiting" else UNPUBLISHED_GRACE_S
        return now - self._suspects.setdefault(suspect, now) >= grace

    def _message_is_gone(self, unit: str, stamp: int) -> bool:
        queue = SEGMENTS if unit == SEGMENT_UNIT else FILMS if unit == FILM_UNIT else CLIPS
        waiting = self._redis.llen(queue)
        return waiting == 0 or self._jobs.queue_claimed(queue) > stamp

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
            self.sweep()

    def sweep(self) -> None:
        """Forget jobs whose retention has passed, and free the blobs of jobs that are gone."""
        for job_id in self._jobs.ended_for(self._settings.retention_s):
            self._blobs.release(job_id)
            self._jobs.delete(job_id)
        gone = {owner for owner in self._blobs.owners() if not self._jobs.exists(owner)}
        for owner in gone & self._orphans:  # twice in a row: a job being submitted pins before it has a record
            self._blobs.release(owner)
        self._orphans = gone - self._orphans
