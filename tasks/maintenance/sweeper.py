"""The sweeper: frees expired jobs, pins without a job, and blobs without a pin."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from blobstore import Collected, ManagedBlobStore
from tasks.errors import JobStateError, VersionError
from tasks.jobs.keys import is_submission
from tasks.jobs.store import JobStore


@dataclass(frozen=True, slots=True)
class SweepResult:
    """What a sweep freed, or would free.

    jobs: ids of jobs past their retention. owners: of pins without a job. blobs: those without a pin.
    """

    jobs: list[str]
    owners: list[str]
    blobs: Collected


class Sweeper:
    """The sweeper of one deployment.

    The pins of an owner without a record are freed only if two sweeps in a row find it: clients of 0.1 pin blobs before
    they write the record. Pins of submissions are left alone; they expire.
    """

    def __init__(
        self, jobs: JobStore, blobs: ManagedBlobStore, *, retention_s: float, now: Callable[[], float] | None = None
    ) -> None:
        """now: the time, in seconds since the epoch by Redis' clock; default: `JobStore.now`."""
        self._jobs = jobs
        self._blobs = blobs
        self._retention_s = retention_s
        self._now = now or jobs.now
        self._suspects: set[str] = set()

    def sweep(self) -> tuple[list[str], list[str]]:
        """Delete jobs past their retention and pins without a job; returns their ids.

        Messages in the sticky queues of dead workers expire, too.
        """
        self._jobs.expire_sticky_queues()
        owners = self._owners_without_job()
        ended = [job_id for job_id in self._jobs.ended_for(self._retention_s, self._now()) if self._delete(job_id)]
        orphans = sorted(self._jobs.missing(owners & self._suspects))
        for owner in orphans:
            self._blobs.release(owner)
        self._suspects = owners - self._suspects
        return ended, orphans

    def collect(self, *, grace_s: float) -> SweepResult:
        """Sweep, and free the blobs that have had no pin for `grace_s` seconds."""
        ended, owners = self.sweep()
        return SweepResult(ended, owners, self._blobs.collect(grace_s=grace_s))

    def preview(self, *, grace_s: float) -> SweepResult:
        """What `collect` would free, with every owner without a record; changes nothing."""
        ended = self._jobs.ended_for(self._retention_s, self._now())
        owners = sorted(self._owners_without_job())
        return SweepResult(ended, owners, self._blobs.collect(grace_s=grace_s, dry_run=True))

    def _delete(self, job_id: str) -> bool:
        """Delete record and pins. A job that was retried or kept meanwhile, or is of a newer version, keeps both."""
        with suppress(JobStateError, VersionError):
            self._jobs.delete(job_id, unless_kept=True)
            self._blobs.release(job_id)
            return True
        return False

    def _owners_without_job(self) -> set[str]:
        return self._jobs.missing(owner for owner in self._blobs.owners() if not is_submission(owner))
