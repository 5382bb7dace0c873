"""A client that crashes while it submits a job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tasks.client.job import Job
from tasks.client.submissions import submission as client
from tasks.client.submit import submit
from tasks.jobs import failpoints as points
from tasks.jobs.changes.lifetimes import new_job_id
from tasks.messaging.publisher import Publisher
from tests.faults.pool import WorkerPool
from tests.tasks.conftest import film_hash_of, spec


def crash(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def submit_and_crash(pool: WorkerPool) -> Job:
    for _ in range(5):
        job_id = new_job_id()
        pool.mark_fault()
        try:
            submitted = submit(spec("a", "b", "c"), settings=pool.settings, job_id=job_id)
        except KeyboardInterrupt:
            return Job(job_id, settings=pool.settings)
        # a worker's reconciler announced the job first, so the client did not reach the point of its crash
        submitted.wait()
    pytest.fail("no client crashed: a worker announced each job first")


@pytest.mark.parametrize("point", ["message announced", "message sent", "message chained"])
def test_a_client_that_crashes_after(
    pool: WorkerPool, undisturbed: str, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    # Given
    monkeypatch.setattr(points.listeners, "_listeners", [lambda reached, *_: crash() if reached == point else None])
    # When
    job = submit_and_crash(pool)
    # Then the workers finish the job
    pool.verify(job, undisturbed)
    pool.wait_idle()


def test_a_client_that_crashes_before_its_image_is_pinned(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Given the film of a job that starts from an image
    Image.new("RGB", (64, 32), "white").save(tmp_path / "boat.png")
    with_image = spec("a", "b", "c", image=str(tmp_path / "boat.png"))
    film = film_hash_of(submit(with_image, settings=pool.settings))
    # And a client that crashes after it created the record of another one
    job = Job(new_job_id(), settings=pool.settings)
    monkeypatch.setattr(client, "complete_submission", crash)
    # When
    pool.mark_fault()
    with pytest.raises(KeyboardInterrupt):
        submit(with_image, settings=pool.settings, job_id=job.id)
    # Then the workers finish the job
    pool.verify(job, film)
    pool.wait_idle()


@pytest.mark.parametrize(("where", "name"), [(client, "admit_now"), (Publisher, "publish")])
def test_a_client_that_crashes_before(
    pool: WorkerPool, undisturbed: str, monkeypatch: pytest.MonkeyPatch, where: object, name: str
) -> None:
    # Given a client that crashes after it created the record, or after the admission
    monkeypatch.setattr(where, name, crash)
    # When
    job = submit_and_crash(pool)
    # Then the workers finish the job
    pool.verify(job, undisturbed)
    pool.wait_idle()
