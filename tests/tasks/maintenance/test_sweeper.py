"""What nobody needs any more, on a real Redis."""

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


def test_ended_jobs_go_with_their_blobs_when_their_retention_has_passed(
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


def test_pins_of_a_job_that_never_came_to_be_are_freed_at_the_second_look(
    jobs: JobStore, blobs: ManagedBlobStore
) -> None:
    blobs.pin([blobs.put(b"orphan", owner="0rphan")], "0rphan")
    sweeper = Sweeper(jobs, blobs, retention_s=3600)
    assert sweeper.sweep() == ([], [])
    assert sweeper.sweep() == ([], ["0rphan"])
    assert list(blobs.owners()) == []


def test_a_dry_run_tells_what_would_be_freed_and_frees_nothing(settings: Settings, blobs: ManagedBlobStore) -> None:
    # Given a pinned blob of a job, one of nobody, and pins of a job that is not there
    job = submit(SPEC, settings=settings)
    kept, loose = blobs.put(b"kept", owner=job.id), blobs.put(b"loose")
    orphan = blobs.put(b"orphan", owner="0rphan")
    # When
    told = collect_garbage(dry_run=True, grace_s=0, settings=settings)
    # Then
    assert (told.jobs, told.owners) == ([], ["0rphan"])
    assert (told.blobs.blobs, told.blobs.bytes) == (1, len(b"loose"))
    assert kept in blobs
    assert loose in blobs
    # When
    found = collect_garbage(dry_run=False, grace_s=0, settings=settings)
    # Then
    assert (found.jobs, found.owners) == ([], ["0rphan"])
    assert (found.blobs.blobs, found.blobs.bytes) == (2, len(b"loose" + b"orphan"))
    assert kept in blobs
    assert loose not in blobs
    assert orphan not in blobs


def test_a_job_that_is_taken_up_again_while_it_is_swept_keeps_its_pins(
    settings: Settings, jobs: JobStore, blobs: ManagedBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a failed job past its retention, which a person tries again just after it was looked at
    job = submit(SPEC, settings=settings)
    blobs.pin([blobs.put(b"kept", owner=job.id)], job.id)
    jobs.stop(job.id, "failed", "a bad prompt")

    def looked_at(seconds: float) -> list[str]:
        job.retry()
        return [job.id]

    monkeypatch.setattr(jobs, "ended_for", looked_at)
    # When / Then
    assert Sweeper(jobs, blobs, retention_s=0.001).sweep() == ([], [])
    assert blobs.pins(job.id)
    assert job.exists()
