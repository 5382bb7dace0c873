"""What nobody needs any more: jobs past their retention, pins without a job, blobs without a pin."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from blobstore import Collected, ManagedBlobStore
from tasks.errors import JobStateError
from tasks.jobs.store import JobStore


@dataclass(frozen=True, slots=True)
class Garbage:
    """What was found: ids of ended jobs past their retention, owners of pins that are no jobs, and unneeded blobs."""

    jobs: list[str]
    owners: list[str]
    blobs: Collected


class Sweeper:
    """Looks for garbage in one deployment.

    A job that is being submitted pins blobs before it has a record, so an owner without one is garbage when two looks
    in a row find it.
    """

    def __init__(self, jobs: JobStore, blobs: ManagedBlobStore, *, retention_s: float) -> None:
        self._jobs = jobs
        self._blobs = blobs
        self._retention_s = retention_s
        self._suspects: set[str] = set()

    def sweep(self) -> tuple[list[str], list[str]]:
        """Forget jobs past their retention and free the pins of jobs that are gone; returns the ids of both.

        What lies in the queues of workers that are gone goes, too.
        """
        self._jobs.expire_sticky_queues()
        owners = self._owners_without_job()
        ended = [job_id for job_id in self._jobs.ended_for(self._retention_s) if self._forget(job_id)]
        orphans = sorted(owner for owner in owners & self._suspects if not self._jobs.exists(owner))
        for owner in orphans:
            self._blobs.release(owner)
        self._suspects = owners - self._suspects
        return ended, orphans

    def collect(self, *, grace_s: float) -> Garbage:
        """Sweep, and free the blobs that nobody pins since `grace_s`."""
        ended, owners = self.sweep()
        return Garbage(ended, owners, self._blobs.collect(grace_s=grace_s))

    def look(self, *, grace_s: float) -> Garbage:
        """What `collect` would free now, were it not for the second look at owners; nothing is changed."""
        ended = self._jobs.ended_for(self._retention_s)
        return Garbage(ended, sorted(self._owners_without_job()), self._blobs.collect(grace_s=grace_s, dry_run=True))

    def _forget(self, job_id: str) -> bool:
        """The record first: a job that was taken up again since it was looked at keeps it, and its pins."""
        with suppress(JobStateError):
            self._jobs.delete(job_id)
            self._blobs.release(job_id)
            return True
        return False

    def _owners_without_job(self) -> set[str]:
        return {owner for owner in self._blobs.owners() if not self._jobs.exists(owner)}
