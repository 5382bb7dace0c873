"""A client that crashes while it submits a job."""

from __future__ import annotations

from typing import Any

import pytest

from tasks import failpoints as points
from tasks.client import submit as client
from tasks.client.job import Job
from tasks.client.submit import submit
from tasks.jobs.store import new_job_id
from tasks.messaging.publisher import Publisher
from tests.faults.pool import WorkerPool
from tests.tasks.conftest import spec


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
