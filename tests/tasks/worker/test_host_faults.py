"""A worker whose host cannot render stops, says why, and costs no job."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from tasks.client.submit import submit
from tasks.jobs.queues import SEGMENTS
from tasks.settings import Settings
from tests.conftest import RedisProcess, Worker, wait_until
from tests.stand_in import LOAD_FAILS

Start = Callable[..., Worker]
SPEC: dict[str, Any] = {"width": 64, "height": 32, "frames": 17, "segments": [{"prompt": "a"}, {"prompt": "b"}]}


def test_a_worker_that_cannot_load_its_model_costs_no_job(
    settings: Settings, shared_redis: RedisProcess, start_worker: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given eight jobs, and a worker whose device is broken
    jobs = [submit(SPEC, settings=settings) for _ in range(8)]
    monkeypatch.setenv(LOAD_FAILS, "1")
    sick = start_worker(settings)
    # When
    status = wait_until(lambda: sick.process.poll(), what="the end of the sick worker")
    # Then it has exited with an error whose last line is the reason, and taken no message with it
    assert status > 0
    last = sick.text().rstrip().splitlines()[-1]
    assert last.startswith("longtake: model shapes cannot be loaded: RuntimeError: CUDA error")
    # When another worker is there, Then every job becomes a film, without a failed attempt
    monkeypatch.delenv(LOAD_FAILS)
    healthy = start_worker(settings)
    for job in jobs:
        assert job.wait().status().film
    assert redis.Redis(port=shared_redis.port).llen(SEGMENTS) == 0
    assert "failed" not in healthy.text()


def test_a_worker_for_films_alone_needs_no_model(
    settings: Settings, start_worker: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LOAD_FAILS, "1")
    assert start_worker(settings, "--only", "films").ready().process.poll() is None
