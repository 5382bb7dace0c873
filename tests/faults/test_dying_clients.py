"""A client that ends in the middle of submitting a job."""

from __future__ import annotations

from typing import Any

import pytest

from tasks import failpoints as points
from tasks.client import job as client
from tasks.client.job import Job
from tasks.client.submit import submit
from tasks.jobs.store import new_job_id
from tasks.messaging.publisher import Publisher
from tests.faults.crew import Crew
from tests.tasks.conftest import spec


def dies(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def submitted_by_the_dying(crew: Crew) -> Job:
    for _ in range(5):
        job_id = new_job_id()
        crew.breaks()
        try:
            submitted = submit(spec("a", "b", "c"), settings=crew.settings, job_id=job_id)
        except KeyboardInterrupt:
            return Job(job_id, settings=crew.settings)
        # a worker that looked after the jobs just then was first to announce it, and left nothing to die at
        submitted.wait()
    pytest.fail("no client died: each job was announced by somebody else")


@pytest.mark.parametrize("point", ["message announced", "message sent", "message chained"])
def test_a_client_that_dies_after(crew: Crew, undisturbed: str, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    # Given
    monkeypatch.setattr(points, "_listeners", [lambda reached, *_: dies() if reached == point else None])
    # When
    job = submitted_by_the_dying(crew)
    # Then
    crew.verify(job, undisturbed)
    crew.at_rest()


@pytest.mark.parametrize(("where", "name"), [(client, "admit_waiting"), (Publisher, "segment")])
def test_a_client_that_dies_before(
    crew: Crew, undisturbed: str, monkeypatch: pytest.MonkeyPatch, where: object, name: str
) -> None:
    # Given one that comes no further than the record, or than its admission
    monkeypatch.setattr(where, name, dies)
    # When
    job = submitted_by_the_dying(crew)
    # Then
    crew.verify(job, undisturbed)
    crew.at_rest()
