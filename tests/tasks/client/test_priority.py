"""Jobs of high priority: their work is taken first, counted apart, and never counts as lost."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from tasks.client.display.job_text import json_of, lines_of
from tasks.client.display.workers import list_workers
from tasks.client.job import Job
from tasks.client.submit import submit
from tasks.deployment import Deployment
from tasks.errors import SpecError
from tasks.jobs.connection import connect
from tasks.jobs.keys import queue_key
from tasks.jobs.queues import QUEUES, SEGMENTS, Priority, list_key
from tasks.jobs.results import AdmissionOutcome
from tasks.jobs.store import JobStore
from tasks.jobs.units import WorkUnit
from tasks.jobs.workers import ChildInfo, ChildState, WorkerInfo, WorkerRegistry
from tasks.maintenance import reconciler
from tasks.maintenance.reconciler import Reconciler
from tasks.settings import Settings
from tests.conftest import Worker, wait_until
from tests.tasks.conftest import spec

HIGH_SEGMENTS = list_key(SEGMENTS, Priority.HIGH)


@pytest.fixture
def client(settings: Settings) -> redis.Redis:
    return connect(settings.redis_url)


@pytest.mark.usefixtures("worker")
def test_a_job_of_high_priority_goes_first(module_settings: Settings, worker: Worker, tmp_path: Path) -> None:
    # Given two jobs on one worker, which renders the first segment of one of them
    go = tmp_path / "go"
    first = submit(spec(f"wait until {go}", "b", "c"), settings=module_settings)
    wait_until(lambda: first.status().state == "running", what="the first segment")
    second = submit(spec("a", "b", "c"), settings=module_settings)
    # When a job of high priority is submitted
    urgent = submit(spec("x", "y", "z"), settings=module_settings, priority="high")
    go.touch()
    for job in (first, second, urgent):
        job.wait()
    # Then all of it is rendered next, and its film is the first
    jobs = Deployment(module_settings).jobs
    started = sorted((made.engine_started, job.id) for job in (first, second, urgent) for made in jobs.handoffs(job.id))
    assert [job_id for _, job_id in started[:4]] == [first.id, *[urgent.id] * 3], worker.text()
    ends = {job.id: job.status().finished_at or 0.0 for job in (first, second, urgent)}
    assert min(ends, key=lambda job_id: ends[job_id]) == urgent.id


def test_how_many_jobs_are_ahead(settings: Settings, jobs: JobStore, client: redis.Redis) -> None:
    # Given a worker, two ordinary jobs and two of high priority
    child = ChildInfo(2, ChildState.IDLE, 1.0)
    info = WorkerInfo("gpu-0", "gpu-0", "h", 1, 1.0, 2.0, 0.0, "m", "e", queues=QUEUES, children=(child,))
    WorkerRegistry(client).write(info, life_s=15)
    ordinary = [submit(spec("a"), settings=settings) for _ in range(2)]
    urgent = [submit(spec("a"), settings=settings, priority=Priority.HIGH) for _ in range(2)]

    def ahead(*waiting: Job) -> list[int | None]:
        waits = [job.waiting() for job in waiting]
        return [wait.jobs_ahead if wait else None for wait in waits]

    # When / Then
    assert ahead(*urgent, *ordinary) == [0, 1, 2, 3]
    # When the first is taken
    client.rpop(HIGH_SEGMENTS)
    jobs.claim(urgent[0].id, WorkUnit.segment(0), 1, "h:2", node="gpu-0")
    # Then
    assert ahead(*urgent, *ordinary) == [None, 0, 1, 2]
    # And all are counted in the length of their queue
    assert jobs.queue_lengths(QUEUES)[SEGMENTS] == 3
    # And its priority is shown
    assert "  priority: high" in list(lines_of(urgent[1], list_workers(settings=settings)))
    assert "  priority: normal" not in list(lines_of(ordinary[0], list_workers(settings=settings)))
    assert [json_of(job.status(), None)["priority"] for job in (urgent[0], ordinary[0])] == ["high", "normal"]


def test_messages_that_wait_behind_others_are_not_lost_ones(
    settings: Settings, jobs: JobStore, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an ordinary job whose message waits, while three of high priority were taken after it
    monkeypatch.setattr(reconciler, "LOST_MESSAGE_GRACE_S", 0.0)
    ordinary = submit(spec("a"), settings=settings)
    urgent = [submit(spec("a"), settings=settings, priority=Priority.HIGH) for _ in range(4)]
    for job in urgent[:3]:
        client.rpop(HIGH_SEGMENTS)
        jobs.claim(job.id, WorkUnit.segment(0), 1, "w")
    with Deployment(settings) as deployment:
        one = Reconciler(client, jobs, deployment.blobs, deployment.publisher, settings)
        # When / Then
        assert [one.reconcile() for _ in range(3)] == [0, 0, 0]
        # When a message of high priority is lost, Then it is published again, with its priority
        client.delete(HIGH_SEGMENTS)
        assert [one.reconcile() for _ in range(3)] == [1, 0, 0]
        assert (client.llen(HIGH_SEGMENTS), client.llen(SEGMENTS)) == (1, 1)
        # When the ordinary one is lost, Then so is that
        client.delete(SEGMENTS)
        assert [one.reconcile() for _ in range(3)] == [1, 0, 0]
        assert (client.llen(HIGH_SEGMENTS), client.llen(SEGMENTS)) == (1, 1)
    assert ordinary.status().committed == 0


def test_a_stamp_is_above_what_an_older_worker_recorded_as_claimed(
    settings: Settings, jobs: JobStore, client: redis.Redis
) -> None:
    # Given a queue whose history of high priority was raised by a worker that does not know priorities
    client.hset(queue_key(SEGMENTS), "claimed:high", 500)
    # When
    job = submit(spec("a"), settings=settings, priority=Priority.HIGH)
    # Then the message does not count as lost
    (need,) = jobs.survey(job.id)
    assert (need.stamp, need.priority) == (501, Priority.HIGH)
    assert not jobs.queue_states()[SEGMENTS, Priority.HIGH].has_lost(need.stamp)


def test_a_job_of_high_priority_is_admitted_first(settings: Settings, jobs: JobStore) -> None:
    # Given jobs that wait for room; the workers have a budget
    jobs.pulse(silence_s=60, grace_s=0, budget_bytes=10**9)
    waiting = [submit(spec("a"), settings=settings) for _ in range(2)]
    urgent = [submit(spec("a"), settings=settings, priority=Priority.HIGH) for _ in range(2)]
    # When / Then
    admitted = [jobs.admit(10**9) for _ in range(5)]
    assert [one.job_id for one in admitted] == [job.id for job in (*urgent, *waiting)] + [""]
    assert admitted[-1].outcome == AdmissionOutcome.WAIT


def test_the_command_has_the_option(
    settings: Settings, longtake: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "spec.json").write_text(json.dumps(spec("a")))
    job_id = longtake("submit", "spec.json", "--priority", "high", settings=settings).stdout.strip()
    assert Job(job_id, settings=settings).status().priority == Priority.HIGH


def test_a_priority_that_does_not_exist(settings: Settings) -> None:
    with pytest.raises(SpecError, match=r"^priority: 'urgent' must be one of normal, high$"):
        submit(spec("a"), settings=settings, priority="urgent")  # type: ignore[arg-type]
