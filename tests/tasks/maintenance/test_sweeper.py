"""The sweeper on a real Redis: ended jobs, orphaned pins and unpinned blobs."""

from __future__ import annotations

import time

import pytest

from blobstore import ManagedBlobStore, open_blob_store
from tasks.client.submit import collect_garbage, submit
from tasks.jobs.store import JobStore
from tasks.maintenance.sweeper import Sweeper
from tasks.settings import Settings

SPEC = {"segments": [{"prompt": "a"}, {"prompt": "b"}]}


@pytest.fixture
def blobs(settings: Settings) -> ManagedBlobStore:
    return open_blob_store(settings.blobs)


def test_ended_jobs_are_deleted_with_their_pins_after_the_retention(
    settings: Settings, jobs: JobStore, blobs: ManagedBlobStore
) -> None:
    # Given an ended job and a running one, both with blobs
    ended, running = submit(SPEC, settings=settings), submit(SPEC, settings=settings)
    for job in (ended, running):
        blobs.pin([blobs.put(job.id.encode(), owner=job.id)], job.id)
    ended.cancel()
    time.sleep(0.005)
    # When
    assert Sweeper(jobs, blobs, retention_s=3600).sweep() == ([], [])
    assert Sweeper(jobs, blobs, retention_s=0.001).sweep() == ([ended.id], [])
    # Then
    assert not ended.exists()
    assert list(blobs.owners()) == [running.id]


def test_orphaned_pins_are_freed_by_the_second_sweep(jobs: JobStore, blobs: ManagedBlobStore) -> None:
    blobs.pin([blobs.put(b"orphan", owner="0rphan")], "0rphan")
    sweeper = Sweeper(jobs, blobs, retention_s=3600)
    assert sweeper.sweep() == ([], [])
    assert sweeper.sweep() == ([], ["0rphan"])
    assert list(blobs.owners()) == []


def test_a_dry_run_reports_what_would_be_freed_and_frees_nothing(settings: Settings, blobs: ManagedBlobStore) -> None:
    # Given a pinned blob of a job, an unpinned one, and one that is pinned by an unknown job
    job = submit(SPEC, settings=settings)
    kept, unpinned = blobs.put(b"kept", owner=job.id), blobs.put(b"unpinned")
    orphan = blobs.put(b"orphan", owner="0rphan")
    # When
    planned = collect_garbage(dry_run=True, grace_s=0, settings=settings)
    # Then
    assert (planned.jobs, planned.owners) == ([], ["0rphan"])
    assert (planned.blobs.blobs, planned.blobs.bytes) == (1, len(b"unpinned"))
    assert kept in blobs
    assert unpinned in blobs
    # When
    freed = collect_garbage(dry_run=False, grace_s=0, settings=settings)
    # Then
    assert (freed.jobs, freed.owners) == ([], ["0rphan"])
    assert (freed.blobs.blobs, freed.blobs.bytes) == (2, len(b"unpinned" + b"orphan"))
    assert kept in blobs
    assert unpinned not in blobs
    assert orphan not in blobs


def test_a_job_that_is_retried_during_a_sweep_keeps_its_pins(
    settings: Settings, jobs: JobStore, blobs: ManagedBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a failed job past its retention, which a user retries after the sweeper listed it
    job = submit(SPEC, settings=settings)
    blobs.pin([blobs.put(b"kept", owner=job.id)], job.id)
    jobs.stop(job.id, "failed", "a bad prompt")

    def list_then_retry(seconds: float, now: float) -> list[str]:
        job.retry()
        return [job.id]

    monkeypatch.setattr(jobs, "ended_for", list_then_retry)
    # When / Then
    assert Sweeper(jobs, blobs, retention_s=0.001).sweep() == ([], [])
    assert blobs.pins(job.id)
    assert job.exists()
