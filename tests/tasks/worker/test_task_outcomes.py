"""What Celery and Flower show of a unit's outcome, and how a worker process exits."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
import torch
from safetensors.torch import save_file

from tasks.client.submit import submit
from tasks.errors import JobFailedError
from tasks.jobs.queues import SEGMENTS
from tasks.settings import Settings
from tests.conftest import RedisProcess, Worker, environment, forked, wait_until

Start = Callable[..., Worker]


def spec(*prompts: str) -> dict[str, Any]:
    return {"width": 64, "height": 32, "frames": 17, "segments": [{"prompt": prompt} for prompt in prompts]}


def outcomes(client: redis.Redis, job_id: str) -> dict[str, Any]:
    """The stored result of every ended task of a job, by task id without the job's."""
    found = {}
    for key in client.scan_iter(f"celery-task-meta-{job_id}-*"):
        meta = json.loads(client.get(key) or "")
        if meta["status"] != "STARTED":
            found[meta["task_id"].removeprefix(f"{job_id}-")] = meta
    return found


def test_a_failed_segment_is_a_failed_task(settings: Settings, shared_redis: RedisProcess, start_worker: Start) -> None:
    # Given
    worker = start_worker(settings)
    # When
    job = submit(spec("fail"), settings=settings)
    with pytest.raises(JobFailedError):
        job.wait()
    client = redis.Redis(port=shared_redis.port)
    metas = wait_until(lambda: (found := outcomes(client, job.id)) and len(found) == 3 and found, what="three results")
    # Then each attempt is one FAILURE, with the reason and what became of the segment
    assert {meta["status"] for meta in metas.values()} == {"FAILURE"}
    texts = [metas[name]["result"]["exc_message"][0] for name in sorted(metas)]
    assert [text.rpartition("; ")[2] for text in texts] == ["a worker tries again"] * 2 + ["the job has failed"]
    assert all("RuntimeError: " in text for text in texts)
    # and Celery does not call it a success, nor retry it
    assert "succeeded in" not in worker.text()
    assert "Retry in" not in worker.text()


def test_a_model_or_lora_that_cannot_be_used_fails_its_job_at_once(
    settings: Settings, start_worker: Start, tmp_path: Path
) -> None:
    # Given jobs with a DoRA, with values that are not finite, and with a file that this worker lacks
    save_file({"proj_in.dora_scale": torch.ones(1)}, tmp_path / "dora.safetensors")
    paths = [tmp_path / "dora.safetensors", tmp_path / "missing.safetensors"]
    start_worker(settings)
    # When
    jobs = [submit(spec("a") | {"loras": [{"path": str(path)}]}, settings=settings) for path in paths]
    jobs.append(submit(spec("a", "nan"), settings=settings))
    for job in jobs:
        with pytest.raises(JobFailedError):
            job.wait()
    # Then only what another worker may have is tried again
    unusable, missing, not_finite = (job.status() for job in jobs)
    assert (unusable.attempts, missing.attempts, not_finite.attempts) == (1, 3, 1)
    assert (not_finite.failed_segment, not_finite.committed) == (1, 1)
    assert "segment 1: the pixels are not finite" in str(not_finite.reason)
    assert "dora.safetensors is a DoRA" in str(unusable.reason)
    assert "no such LoRA" in str(missing.reason)


def test_a_segment_of_one_colour_fails_its_job_where_a_setting_says_so(settings: Settings, start_worker: Start) -> None:
    # Given
    start_worker(settings.model_copy(update={"flat_segments": "error"}))
    # When a job gets one colour, and others have it from their start, or from a cut on
    becomes, is_flat, after_cut = spec("striped", "a"), spec("a", "b"), spec("striped", "a")
    after_cut["segments"][1]["transition"] = "cut"
    jobs = [submit(one, settings=settings) for one in (becomes, is_flat, after_cut)]
    with pytest.raises(JobFailedError, match="segment 1 has one colour throughout"):
        jobs[0].wait()
    # Then only the first one fails, at its first attempt
    assert (jobs[0].status().attempts, jobs[0].status().committed) == (1, 1)
    for job in jobs[1:]:
        job.wait()


def test_a_message_of_a_paused_job_is_ignored_with_the_reason(
    settings: Settings, shared_redis: RedisProcess, start_worker: Start
) -> None:
    # Given a job that was paused while its message waited
    job = submit(spec("a"), settings=settings)
    job.pause()
    # When
    worker = start_worker(settings)
    client = redis.Redis(port=shared_redis.port)
    metas = wait_until(lambda: outcomes(client, job.id), what="its result")
    # Then
    [meta] = metas.values()
    assert (meta["status"], meta["result"]) == ("IGNORED", {"skipped": "the job is paused"})
    assert "succeeded in" not in worker.text()
    assert client.llen(SEGMENTS) == 0


@pytest.mark.parametrize(
    ("pool", "gpus", "problem"),
    [
        ("threads", "1", "the pool must be prefork, not celery.concurrency."),
        ("solo", "1", "the pool must be prefork, not celery.concurrency."),
        ("prefork", "2", "with LONGTAKE_GPUS=2 the concurrency must be 1, not 2: the children would share GPUs"),
    ],
)
def test_a_pool_in_which_jobs_would_share_an_engine_or_gpus_is_refused(
    settings: Settings, pool: str, gpus: str, problem: str, tmp_path: Path
) -> None:
    command = forked("celery", "-A", "tasks", "worker", "-P", pool, "-c", "2")
    variables = environment(settings) | {"LONGTAKE_GPUS": gpus, "LONGTAKE_DEVICE": "cpu"}
    done = subprocess.run(command, env=variables, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert f"longtake: {problem}" in done.stderr


def test_a_worker_that_dies_of_an_error_exits_with_its_status(settings: Settings, start_worker: Start) -> None:
    # Given
    worker = start_worker(settings).ready()
    client = redis.Redis.from_url(settings.redis_url)
    # When the broker has something else in the place of a queue
    client.set(SEGMENTS, "not a list")
    try:
        status = worker.process.wait(60)
    finally:
        client.delete(SEGMENTS)
    # Then
    assert "Unrecoverable error" in worker.text()
    assert status > 0
