"""A worker whose host cannot render stops, says why, and costs no job."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from tasks.client.display.workers import list_workers
from tasks.client.submit import submit
from tasks.errors import JobFailedError
from tasks.jobs.queues import SEGMENTS
from tasks.settings import Settings
from tests.conftest import RedisProcess, Worker, wait_until
from tests.stand_in import HUB_IS_OUT, LOAD_DIES, LOAD_FAILS, RUN_FAILS, STEP_S

Start = Callable[..., Worker]
SPEC: dict[str, Any] = {"width": 64, "height": 32, "frames": 17, "segments": [{"prompt": "a"}, {"prompt": "b"}]}


def test_workers_that_cannot_load_their_model_cost_no_job(
    settings: Settings, shared_redis: RedisProcess, start_worker: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given four jobs, and two workers whose devices are broken
    jobs = [submit(SPEC, settings=settings) for _ in range(4)]
    sick = {}
    for fault, reason in ((LOAD_FAILS, "RuntimeError: CUDA error"), (LOAD_DIES, "its process dies every time")):
        monkeypatch.setenv(fault, "1")
        sick[reason] = start_worker(settings)
        monkeypatch.delenv(fault)
    for reason, worker in sick.items():
        # When
        status = wait_until(worker.process.poll, what="the end of a sick worker")
        # Then it has exited with an error whose last line is the reason, and taken no message with it
        assert status > 0
        last = worker.text().rstrip().splitlines()[-1]
        assert last.startswith(f"longtake: model shapes cannot be loaded: {reason}")
    # When another worker is there, Then every job becomes a film, without a failed attempt
    healthy = start_worker(settings)
    for job in jobs:
        assert job.wait().status().film
    # And nothing is left of what was published twice
    wait_until(lambda: redis.Redis(port=shared_redis.port).llen(SEGMENTS) == 0, what="an empty queue")
    assert "failed" not in healthy.text()


def test_a_worker_for_films_alone_needs_no_model(
    settings: Settings, start_worker: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LOAD_FAILS, "1")
    assert start_worker(settings, "--only", "films").ready().process.poll() is None


def test_a_job_that_poisons_its_process_costs_no_other_job(settings: Settings, start_worker: Start) -> None:
    # Given one worker, a job with a model of its own that makes the device useless, and one behind it
    worker = start_worker(settings)
    poison = submit(SPEC | {"model": "other", "segments": [{"prompt": "poison"}]}, settings=settings)
    behind = submit(SPEC, settings=settings)
    # When / Then the first fails after its attempts
    with pytest.raises(JobFailedError, match="segment 0 after 3 attempts: RuntimeError: CUDA error"):
        poison.wait()
    # And the process is replaced: the other job becomes a film without a failed attempt, and the worker lives
    assert behind.wait().status().film
    assert worker.process.poll() is None
    assert "this process ends, and is replaced" in worker.text()


def test_a_hub_that_is_out_costs_no_attempt(
    settings: Settings, start_worker: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a worker that cannot reach the hub, and a job whose model is there
    out = tmp_path / "out"
    out.touch()
    monkeypatch.setenv(HUB_IS_OUT, str(out))
    worker = start_worker(settings)
    job = submit(SPEC | {"model": "owner/name"}, settings=settings.model_copy(update={"max_attempts": 1}))
    # When
    wait_until(lambda: "released" in worker.text(), what="a release")
    out.unlink()
    # Then the job becomes a film, and no attempt was counted
    assert job.wait().status().failures == ()
    assert "Traceback" not in worker.text()


def test_a_worker_on_which_every_segment_fails_costs_no_job(
    settings: Settings, start_worker: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a worker on which everything fails at once, a slow one that renders, and two attempts for each segment
    settings = settings.model_copy(update={"max_attempts": 2})
    monkeypatch.setenv(RUN_FAILS, "1")
    sick = start_worker(settings)
    monkeypatch.delenv(RUN_FAILS)
    monkeypatch.setenv(STEP_S, "0.1")
    start_worker(settings).ready()
    sick.ready()
    wait_until(lambda: len(list_workers(settings=settings).living) == 2, what="two heartbeats")
    # When
    jobs = [submit(SPEC, settings=settings) for _ in range(3)]
    # Then every job becomes a film: each unit failed on the sick worker once at most, and was left to the other one
    for job in jobs:
        assert job.wait().status().film
    wait_until(lambda: "this host cannot render" in sick.text(), what="the end of the sick worker")


@pytest.mark.faults
def test_a_worker_whose_folders_were_deleted_costs_no_job(
    settings: Settings, start_worker: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a worker whose working directory and folder of temporary files are deleted, as by a new release or a cleaner
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    start_worker(settings).ready()
    shutil.rmtree(tmp_path)
    # When / Then
    assert submit(SPEC, settings=settings).wait().status().film
