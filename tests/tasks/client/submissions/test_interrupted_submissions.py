"""Clients that die while they submit: the job is completed or failed, and its blobs are neither lost nor leaked."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from PIL import Image

from blobstore import BlobStoreUnavailableError, ManagedBlobStore, RedisBlobStore, open_blob_store
from ltx2 import LTX2ContinuationState
from tasks.client import submit as client
from tasks.client.job import Job
from tasks.client.submit import collect_garbage, list_jobs, submit
from tasks.jobs.connection import connect
from tasks.jobs.keys import SUBMITTING, is_submission, job_keys
from tasks.jobs.queues import SEGMENTS
from tasks.jobs.store import JobStore
from tasks.maintenance.reconciler import Reconciler
from tasks.messaging.celery_app import make_app
from tasks.messaging.publisher import Publisher
from tasks.settings import Settings
from tests.conftest import RedisProcess, environment
from tests.tasks.conftest import spec

# The steps of a submission; a client dies before each.
STEPS = {
    "create": "tasks.jobs.store:JobStore.create",
    "complete": "tasks.client.submissions.submission:complete_submission",
    "pin": "blobstore.redis.store:RedisBlobStore.pin",
    "submitted": "tasks.jobs.store:JobStore.submitted",
    "release": "blobstore.redis.store:RedisBlobStore.release",
    "admit": "tasks.client.submissions.submission:admit_now",
}
DYING_CLIENT = """
import os, sys
from importlib import import_module
from tasks.client.submit import submit
module, _, path = sys.argv[1].partition(":")
*parents, name = path.split(".")
target = import_module(module)
for parent in parents:
    target = getattr(target, parent)
setattr(target, name, lambda *_, **__: os._exit(9))
submit(sys.argv[2], job_id="0dying")
"""
JOB = "0dying"


@pytest.fixture(autouse=True)
def _no_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "SECOND_LOOK_S", 0.0)


@pytest.fixture
def blobs(settings: Settings) -> ManagedBlobStore:
    return open_blob_store(settings.blobs)


@pytest.fixture
def reconciler(jobs: JobStore, blobs: ManagedBlobStore, settings: Settings) -> Iterator[Reconciler]:
    publisher = Publisher(make_app(settings, results=False), jobs)
    yield Reconciler(connect(settings.redis_url), jobs, blobs, publisher, settings)
    publisher.close()


@pytest.fixture
def with_image(tmp_path: Path) -> Path:
    """A spec whose job starts from an image."""
    Image.new("RGB", (64, 32), "white").save(tmp_path / "boat.png")
    path = tmp_path / "spec.yaml"
    path.write_text("{width: 64, height: 32, frames: 9, overlap: 1, image: boat.png, segments: [{prompt: a}]}")
    return path


def die_before(step: str, path: Path, settings: Settings) -> None:
    """Submit a job in a process that ends before a step."""
    command = [sys.executable, "-c", DYING_CLIENT, STEPS[step], str(path)]
    assert subprocess.run(command, env=environment(settings), check=False, timeout=60).returncode == 9


def free_everything(settings: Settings) -> None:
    for _ in range(2):
        collect_garbage(dry_run=False, grace_s=0, settings=settings)


def stored_blobs(server: RedisProcess) -> list[bytes]:
    return list(redis.Redis(port=server.port).scan_iter("longtake:blob:*"))


def end_provisional_pins(server: RedisProcess) -> None:
    """Let the hour pass after which a provisional pin ends."""
    connection = redis.Redis(port=server.port)
    for kind in ("pins", "owner"):
        for key in connection.scan_iter(f"longtake:{kind}:*"):
            connection.zremrangebyscore(key, "-inf", "(inf")


def test_a_client_that_dies_before_its_job_has_a_record_leaves_what_expires(
    settings: Settings, blobs: ManagedBlobStore, with_image: Path, reconciler: Reconciler, shared_redis: RedisProcess
) -> None:
    # Given
    die_before("create", with_image, settings)
    # Then nothing is pinned under the job's id, and no sweep touches the submission
    [owner] = blobs.owners()
    assert is_submission(owner)
    free_everything(settings)
    assert reconciler.reconcile() == 0
    assert list(blobs.owners()) == [owner]
    assert len(stored_blobs(shared_redis)) == 1
    assert list_jobs(settings=settings) == []
    # When its pins have ended, Then it leaves nothing
    end_provisional_pins(shared_redis)
    free_everything(settings)
    assert stored_blobs(shared_redis) == []
    assert not redis.Redis(port=shared_redis.port).keys("longtake:*")


@pytest.mark.parametrize(
    ("step", "sweeps"), [("complete", True), *((step, False) for step in STEPS if step != "create")]
)
def test_a_client_that_dies_after_that_leaves_a_job_that_the_reconciler_completes(
    settings: Settings,
    blobs: ManagedBlobStore,
    with_image: Path,
    reconciler: Reconciler,
    shared_redis: RedisProcess,
    jobs: JobStore,
    step: str,
    sweeps: bool,
) -> None:
    # Given
    die_before(step, with_image, settings)
    pinned_late = step in ("complete", "pin")
    assert [is_submission(owner) for owner in blobs.owners()].count(False) == (0 if pinned_late else 1)
    assert jobs.waits_for_room() == (step in ("release", "admit"))
    if sweeps:
        free_everything(settings)
    # When
    reconciler.reconcile()
    # Then the job is admitted, its message is sent and its image is pinned
    job = Job(JOB, settings=settings)
    assert (job.status().state, job.status().admitted) == ("queued", True)
    assert redis.Redis(port=shared_redis.port).llen(SEGMENTS) == 1
    assert str(jobs.head(JOB).image) in blobs.pins(JOB)
    assert not redis.Redis(port=shared_redis.port).exists(SUBMITTING)
    # And with the job, everything goes
    job.cancel()
    job.forget()
    end_provisional_pins(shared_redis)
    free_everything(settings)
    assert stored_blobs(shared_redis) == []


@pytest.mark.parametrize("step", list(STEPS))
def test_a_sweep_or_a_reconciler_between_two_steps_of_a_client_changes_nothing(
    settings: Settings,
    blobs: ManagedBlobStore,
    with_image: Path,
    reconciler: Reconciler,
    shared_redis: RedisProcess,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    # Given a client that is slow before one step, so that workers and `longtake gc --grace 0` run meanwhile
    target, name = import_step(step)
    original, entered = getattr(target, name), []

    def slow(*arguments: Any, **named: Any) -> Any:
        if not entered:
            entered.append(step)
            free_everything(settings)
            reconciler.reconcile()
            free_everything(settings)
            assert len(stored_blobs(shared_redis)) == 1
        return original(*arguments, **named)

    monkeypatch.setattr(target, name, slow)
    # When
    job = submit(with_image, settings=settings)
    # Then
    assert entered
    reconciler.reconcile()
    assert job.status().admitted
    assert redis.Redis(port=shared_redis.port).llen(SEGMENTS) == 1
    assert list(blobs.owners()) == [job.id]
    assert blobs.pins(job.id)


def import_step(step: str) -> tuple[Any, str]:
    """Where a step is, and its name."""
    module, _, path = STEPS[step].partition(":")
    *parents, name = path.split(".")
    target: Any = import_module(module)
    for parent in parents:
        target = getattr(target, parent)
    return target, name


@pytest.mark.parametrize("deleted", ["blob", "record's list"])
def test_a_submission_that_cannot_be_completed_fails(
    settings: Settings, with_image: Path, reconciler: Reconciler, shared_redis: RedisProcess, deleted: str
) -> None:
    # Given a client that died, and the blob server that lost its image, or a damaged record
    die_before("complete", with_image, settings)
    connection = redis.Redis(port=shared_redis.port)
    if deleted == "blob":
        connection.delete(*stored_blobs(shared_redis))
    else:
        connection.hset(job_keys(JOB, "record")[0], "unpinned", b"\xc1garbage")
    # When
    reconciler.reconcile()
    # Then
    status = Job(JOB, settings=settings).status()
    assert status.state == "failed"
    assert ("submit it again" if deleted == "blob" else "is damaged") in str(status.reason)
    assert not connection.exists(SUBMITTING)
    assert not connection.llen(SEGMENTS)


@pytest.mark.parametrize("end", ["cancel", "pause", "forget"])
def test_a_job_that_is_changed_before_its_submission_is_complete(
    settings: Settings, blobs: ManagedBlobStore, with_image: Path, reconciler: Reconciler, jobs: JobStore, end: str
) -> None:
    # Given
    die_before("complete", with_image, settings)
    job = Job(JOB, settings=settings)
    job.pause() if end == "pause" else job.cancel()
    if end == "forget":
        job.forget()
    # When
    reconciler.reconcile()
    # Then
    assert jobs.submitting() == []
    assert jobs.waits_for_room() == (end == "pause")
    assert bool(blobs.pins(JOB)) == (end != "forget")


def test_a_submission_is_queued_when_its_blobs_cannot_be_pinned_now(
    settings: Settings,
    with_image: Path,
    reconciler: Reconciler,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Given a blob server that is lost after the record was written
    def lost(*_: Any, **__: Any) -> None:
        raise BlobStoreUnavailableError("Redis at 127.0.0.1:1 cannot be used")

    with monkeypatch.context() as patched:
        patched.setattr(RedisBlobStore, "pin", lost)
        # When
        job = submit(with_image, settings=settings)
        reconciler.reconcile()
        reconciler.reconcile()
    # Then the client has its job, and the reconciler completes it later; the connection logs an outage
    assert f"job {job.id} is queued; a worker completes its submission" in caplog.text
    assert "cannot complete the submission of job" not in caplog.text
    assert not job.status().admitted
    reconciler.reconcile()
    assert job.status().admitted


def test_a_job_that_continues_a_state_pins_its_blobs_after_its_record(
    settings: Settings, blobs: ManagedBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a state with a large array
    frame = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)
    envelope = LTX2ContinuationState(video_frames=[frame]).to_continuation_state()
    owners: list[str] = []
    create = JobStore.create

    def look_first(*arguments: Any, **named: Any) -> Any:
        owners.extend(blobs.owners())
        return create(*arguments, **named)

    monkeypatch.setattr(JobStore, "create", look_first)
    # When
    state = {"kind": envelope.kind, "payload": envelope.payload}
    job = submit(spec("a", overlap=1), from_state=state, settings=settings)
    # Then
    assert [is_submission(owner) for owner in owners] == [True]
    assert list(blobs.owners()) == [job.id]
    assert len(blobs.pins(job.id)) == 1
    assert job.status().admitted
