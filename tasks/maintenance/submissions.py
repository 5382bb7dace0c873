"""Submissions: pin what a new job starts from, then let it wait for its admission.

The client does this after it has created the record. If it died, another client with the same idempotency key or the
reconciler does it; each step may be repeated.
"""

from __future__ import annotations

from collections.abc import Iterator

from blobstore import BlobNotFoundError, BlobStoreError, BlobStoreUnavailableError, ManagedBlobStore
from tasks.errors import JobNotFoundError, RecordError, VersionError
from tasks.jobs.store import JobStore
from tasks.jobs.units import JobState

LOST = "its submission was interrupted, and the image or state that it starts from was lost; submit it again"


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
                blobs.pin(unpinned.blobs, job_id)
        except BlobNotFoundError:
            jobs.stop(job_id, JobState.FAILED, LOST)
        except RecordError as error:
            jobs.stop(job_id, JobState.FAILED, str(error))
        jobs.submitted(job_id)
    except JobNotFoundError:  # deleted meanwhile
        blobs.release(job_id)
    if unpinned is not None:
        blobs.release(unpinned.owner)


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
