"""Pieces for live players in the blob budget, on a real Redis."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import redis

from blobstore import BlobStoreFullError
from ltx2.media.live import LivePiece
from tasks.deployment import Deployment
from tasks.jobs.keys import job_keys
from tasks.jobs.records import PieceRecord
from tasks.jobs.results import AdmissionOutcome
from tasks.jobs.store import JobStore
from tasks.jobs.units import JobState
from tasks.server.films.blob_files import BlobFiles
from tasks.server.films.live import LiveFilms
from tasks.settings import Settings
from tests.conftest import RedisProcess
from tests.tasks.jobs.protocol import JOB, create_with

BUDGET = 10
PIECE = PieceRecord("sha256:d", "sha256:h")


def figures(jobs: JobStore) -> tuple[int, int]:
    """What the job needs, and what is reserved."""
    return jobs.status(JOB).needs_bytes, jobs.reserved_bytes()


def test_room_for_a_piece_is_reserved_once_and_given_back(jobs: JobStore) -> None:
    # Given
    create_with(jobs, needs=5, budget=BUDGET)
    # When room is reserved twice, since the reply was lost, Then it is reserved once
    assert [jobs.reserve_piece(JOB, "a", 3, budget_bytes=BUDGET) for _ in range(2)] == [True, True]
    assert figures(jobs) == (8, 8)
    assert not jobs.reserve_piece(JOB, "b", 3, budget_bytes=BUDGET)
    # When it is given back, Then nothing is left of it, and a late server records nothing
    jobs.release_piece(JOB, "a")
    jobs.release_piece(JOB, "a")
    assert figures(jobs) == (5, 5)
    assert not jobs.note_piece(JOB, "a", PIECE)
    # When it is stored, Then it stays reserved
    assert jobs.reserve_piece(JOB, "a", 3, budget_bytes=BUDGET)
    assert [jobs.note_piece(JOB, "a", PIECE) for _ in range(2)] == [True, True]
    jobs.release_piece(JOB, "a")
    assert jobs.reserve_piece(JOB, "a", 3, budget_bytes=BUDGET)
    assert (figures(jobs), jobs.piece(JOB, "a")) == ((8, 8), PIECE)


def test_a_piece_keeps_no_job_from_being_admitted_again(jobs: JobStore) -> None:
    # Given a job that needs the whole budget, and that failed and was settled
    create_with(jobs, needs=BUDGET, budget=BUDGET)
    jobs.stop(JOB, JobState.FAILED, "x")
    jobs.settle(JOB, 4, reserved=jobs.unsettled(set())[JOB])
    # When its film is played, before and after it is retried
    assert not jobs.reserve_piece(JOB, "a", 3, budget_bytes=BUDGET)
    jobs.revive(JOB, JobState.FAILED)
    assert not jobs.reserve_piece(JOB, "a", 3, budget_bytes=BUDGET)
    # Then it still fits
    assert jobs.admit(BUDGET).outcome == AdmissionOutcome.ADMITTED


def test_an_ended_job_reserves_what_its_blobs_take(jobs: JobStore, client: redis.Redis) -> None:
    # Given an ended job, a piece of which was not stored, because the server died
    create_with(jobs, needs=5, budget=BUDGET)
    jobs.stop(JOB, JobState.CANCELLED, "x")
    counted = jobs.unsettled(set())[JOB]
    jobs.reserve_piece(JOB, "a", 3, budget_bytes=BUDGET)
    # When its blobs were counted before, Then they count again
    jobs.settle(JOB, 2, reserved=counted)
    assert (figures(jobs), jobs.unsettled(set())) == ((8, 8), {JOB: 8})
    # When they are counted now, Then nothing else is reserved
    jobs.settle(JOB, 2, reserved=8)
    settled: set[tuple[float, str]] = set()
    assert (figures(jobs), jobs.unsettled(settled)) == ((5, 2), {})
    # And it is asked about no more, until it ends again
    client.hdel(job_keys(JOB, "record")[0], "settled")
    assert jobs.unsettled(settled) == {}
    jobs.revive(JOB, JobState.CANCELLED)
    assert (jobs.unsettled(settled), settled) == ({}, set())
    assert not [name for name in client.hkeys(job_keys(JOB, "record")[0]) if name.startswith(b"piece")]


def test_a_full_blob_store_leaves_nothing_reserved(jobs: JobStore, settings: Settings, tmp_path: Path) -> None:
    # Given a blob store that takes no piece
    create_with(jobs, needs=5)
    full = RedisProcess(tmp_path, "--maxmemory", "1")
    piece = LivePiece(b"header", b"data" * 100_000, Fraction(1))
    try:
        with Deployment(settings.model_copy(update={"blob_url": full.url})) as deployment:
            films = LiveFilms(deployment, BlobFiles(tmp_path, deployment.blobs))
            # When / Then
            with pytest.raises(BlobStoreFullError):
                films._store(JOB, "a", piece)
    finally:
        full.stop()
    assert figures(jobs) == (5, 5)
