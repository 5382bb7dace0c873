"""Reports of steps: the newest one arrives, and the engine never waits for a server."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import redis
from celery import Task

from tasks.jobs.connection import connect
from tasks.jobs.records import Progress
from tasks.jobs.store import JobStore
from tasks.jobs.units import JobState
from tasks.messaging.celery_app import make_app
from tasks.settings import Settings
from tasks.worker.claims.lease import Lease
from tasks.worker.segments.step_reporter import StepReporter
from tests.conftest import RedisProcess, wait_until
from tests.proxies import Proxy
from tests.tasks.jobs.protocol import JOB, claim, create

STEPS = 50


@pytest.fixture
def proxy(own_server: RedisProcess) -> Iterator[Proxy]:
    with Proxy(own_server.port) as proxy:
        yield proxy


@pytest.fixture
def near(own_settings: Settings) -> JobStore:
    """The records, as others see them."""
    return JobStore(connect(own_settings.redis_url), own_settings)


@pytest.fixture
def lease(own_settings: Settings, near: JobStore, proxy: Proxy) -> Lease:
    """A claim that is renewed through the proxy."""
    create(near)
    return Lease(JobStore(connect(proxy.url), own_settings), claim(near, 0), own_settings.lease_s)


@pytest.fixture
def task(own_settings: Settings, proxy: Proxy) -> Iterator[Task]:
    """A task that this thread runs."""
    app = make_app(own_settings.model_copy(update={"redis_url": proxy.url}))

    @app.task(name="task")
    def task() -> None: ...

    task.push_request(id="id", hostname="worker@test")
    yield task
    task.pop_request()
    app.close()


@pytest.mark.filterwarnings("ignore:Call to deprecated setex")  # by Celery
def test_steps_do_not_wait_for_a_broker_that_does_not_reply(
    own_server: RedisProcess, near: JobStore, proxy: Proxy, lease: Lease, task: Task
) -> None:
    with StepReporter(task, lease) as reporter:
        # Given a report that has arrived
        assert reporter.on_step(1, STEPS)
        wait_until(lambda: near.status(JOB).progress, what="the first report")
        # When nothing arrives any more, Then steps go on: each would take as long as a client waits for a reply
        proxy.cut()
        assert all(reporter.on_step(step, STEPS) for step in range(2, STEPS + 1))
        # When the broker replies again, Then the newest step arrives
        proxy.heal()
        wait_until(lambda: shown(own_server) == STEPS, what="the last step in Flower")
    progress = near.status(JOB).progress
    assert isinstance(progress, Progress)
    assert (progress.index, progress.step, progress.steps) == (0, STEPS, STEPS)


def shown(server: RedisProcess) -> int:
    """The step that Celery's result names."""
    with redis.Redis(port=server.port) as client:
        found = json.loads(client.get("celery-task-meta-id") or b"{}")
    return int(found["result"]["step"]) if found.get("status") == "PROGRESS" else 0


def test_a_cancelled_job_is_noticed_between_steps(near: JobStore, lease: Lease, task: Task) -> None:
    with StepReporter(task, lease) as reporter:
        assert reporter.on_step(1, STEPS)
        # When
        near.stop(JOB, JobState.CANCELLED, "cancelled by user")
        # Then
        wait_until(lambda: not reporter.on_step(2, STEPS), what="the end of the claim")


def test_progress_is_not_sent_while_a_renewal_waits_for_its_reply(
    near: JobStore, proxy: Proxy, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a lease whose renewal gets no reply
    monkeypatch.setattr("tasks.worker.claims.lease.OVERDUE_S", 0.0)
    proxy.cut()
    lease.start()
    wait_until(lambda: lease._asked, what="a renewal")
    # When progress is reported, Then it is left out: what still arrives would only lengthen the lease
    assert lease.renew(progress=Progress(0, 1, STEPS, 0.1))
    lease.end()
    proxy.heal()
    assert near.status(JOB).progress is None
