"""Submissions: pin what a new job starts from, then let it wait for its admission.

What it starts from is an image, a state, or the segments that it shares with another job.

The client does this after it has created the record. If it died, another client with the same idempotency key or the
reconciler does it; each step may be repeated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from blobstore import BlobNotFoundError, BlobStoreError, BlobStoreUnavailableError, ManagedBlobStore
from tasks.errors import JobNotFoundError, RecordError, VersionError
from tasks.jobs.store import JobStore
from tasks.jobs.units import JobState

LOST = "its submission was interrupted, and a file, state or segment that it starts from was lost; submit it again"
BLOBS_PER_PIN = 1000  # so that a fork of a long job does not hold up other clients of the blob server


def complete_submission(jobs: JobStore, blobs: ManagedBlobStore, job_id: str) -> None:
    """Complete the submission of a job, if that is not done yet. The job fails if its blobs were lost.

    Raises:
        BlobStoreError: the blob store cannot be used; try again. VersionError: a newer major version wrote the job.
    """
    unpinned = None
    try:
        try:
            unpinned = jobs.unpinned(job_id)
            if unpinned is not None:
                pin_all(blobs, unpinned.blobs, job_id)
        except BlobNotFoundError:
            jobs.stop(job_id, JobState.FAILED, LOST)
        except RecordError as error:
            jobs.stop(job_id, JobState.FAILED, str(error))
        jobs.submitted(job_id)
    except JobNotFoundError:  # deleted meanwhile
        blobs.release(job_id)
    if unpinned is not None:
        blobs.release(unpinned.owner)


def pin_all(blobs: ManagedBlobStore, blob_ids: Sequence[str], owner: str, *, provisional: bool = False) -> None:
    """Pin any number of blobs, see `ManagedBlobStore.pin`; after an error, some may be pinned.

    Raises:
        BlobNotFoundError: some are missing.
    """
    for first in range(0, len(blob_ids), BLOBS_PER_PIN):
        blobs.pin(blob_ids[first : first + BLOBS_PER_PIN], owner, provisional=provisional)


def complete_submissions(jobs: JobStore, blobs: ManagedBlobStore) -> Iterator[tuple[str, Exception | None]]:
    """Complete every submission that is not; yields each job's id and what prevented it, if anything did.

    Raises:
        BlobStoreUnavailableError: the blob server is out; the remaining submissions are unchanged.
    """
    for job_id in jobs.submitting():
        try:
            complete_submission(jobs, blobs, job_id)
            yield job_id, None
        except BlobStoreUnavailableError:
            raise
        except (BlobStoreError, VersionError) as error:
            yield job_id, error.with_traceback(None)
