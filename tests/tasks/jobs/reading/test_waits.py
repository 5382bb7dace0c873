"""What a job waits for, as `status`, `watch`, `list` and their JSON say it."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import redis
from click.testing import CliRunner
from rich.console import Console

from tasks.cli import main
from tasks.client.display.job_text import json_of, row_of
from tasks.client.display.progress import ProgressDisplay
from tasks.client.display.workers import list_workers
from tasks.client.job import Job
from tasks.client.submit import iterate_waiting, submit
from tasks.jobs.keys import job_keys, worker_key
from tasks.jobs.queues import CLIPS, FILMS, QUEUES, SEGMENTS
from tasks.jobs.reading.waits import Wait, WaitReason
from tasks.jobs.results import Claim
from tasks.jobs.store import JobStore
from tasks.jobs.units import WorkUnit
from tasks.jobs.workers import SILENT_KEPT_S, ChildInfo, ChildState, WorkerInfo, WorkerRegistry
from tasks.settings import Settings
from tests.conftest import environment
from tests.tasks.conftest import spec

Longtake = Callable[..., Any]
LIFE_S = 15.0


@pytest.fixture
def job(settings: Settings) -> Job:
    return submit(spec("a", "b"), settings=settings)


def beat(
    client: redis.Redis,
    name: str,
    state: ChildState = ChildState.IDLE,
    queues: tuple[str, ...] = QUEUES,
    blob_outage_s: float = 0.0,
) -> WorkerInfo:
    """A worker that has just given a word; its token is its name."""
    child = ChildInfo(2, state, 1.0)
    info = WorkerInfo(name, name, "h", 1, 1.0, 2.0, 0.0, "m", "e", queues, children=(child,))
    info = replace(info, blob_outage_s=blob_outage_s)
    WorkerRegistry(client).write(info, life_s=LIFE_S)
    return info


def silence(client: redis.Redis, name: str, seconds: float) -> None:
    """Let so many seconds pass since the last word of a worker."""
    client.pexpire(worker_key(name), int((LIFE_S + SILENT_KEPT_S - seconds) * 1000))


def claim(jobs: JobStore, job: Job, node: str) -> Claim:
    claimed = jobs.claim(job.id, WorkUnit.segment(0), 1, "h:2", node=node)
    assert isinstance(claimed, Claim)
    return claimed


def test_a_deployment_without_a_worker(job: Job, client: redis.Redis) -> None:
    assert str(job.waiting()) == "no worker is online"
    # also with workers for other work, and with one that stops
    beat(client, "joiner", queues=(FILMS, CLIPS))
    assert job.waiting() == Wait(WaitReason.NO_WORKER)


def test_a_worker_that_loads_is_named(job: Job, client: redis.Redis) -> None:
    beat(client, "gpu-0", ChildState.LOADING)
    assert str(job.waiting()) == "worker gpu-0 is loading the model"
    beat(client, "gpu-1")
    assert str(job.waiting()) == "next in queue"


def test_the_jobs_ahead_are_counted(settings: Settings, jobs: JobStore, client: redis.Redis, job: Job) -> None:
    # Given a worker, and three more jobs
    beat(client, "gpu-0")
    behind = [submit(spec("a"), settings=settings) for _ in range(3)]
    # When / Then
    assert [str(one.waiting()) for one in (job, *behind)] == [
        "next in queue",
        "waiting in queue, 1 job ahead",
        "waiting in queue, 2 jobs ahead",
        "waiting in queue, 3 jobs ahead",
    ]
    # When the first is taken, Then it does not wait, and the others come nearer
    client.rpop(SEGMENTS)
    claim(jobs, job, "gpu-0")
    assert [one.waiting() and one.waiting().jobs_ahead for one in (job, *behind)] == [None, 0, 1, 2]  # type: ignore[union-attr]
    # And what waits for a person, or has ended, waits for no worker
    behind[0].pause()
    behind[1].cancel()
    assert [one.waiting() for one in behind[:2]] == [None, None]


def test_a_worker_that_gives_no_word_is_named(jobs: JobStore, client: redis.Redis, job: Job) -> None:
    # Given a worker at work
    beat(client, "gpu-0", ChildState.WORKING)
    claim(jobs, job, "gpu-0")
    # When it has been silent for less than the life of its entry, Then nothing is wrong
    silence(client, "gpu-0", LIFE_S / 2)
    assert job.waiting() is None
    # When it is silent for longer, Then that is said, by a clock that goes on
    silence(client, "gpu-0", 40)
    assert re.fullmatch(r"no worker is online; no word from gpu-0 for 4\d s", str(job.waiting()))
    beat(client, "gpu-1")
    assert re.fullmatch(r"no word from gpu-0 for 4\d s", str(job.waiting()))
    # and when another one has the segment, nothing
    client.hset(job_keys(job.id, "units")[0], "segment", other_holder(client, job, "gpu-1"))
    assert job.waiting() is None
    # And a silent worker is not among those that beat
    found = list_workers(settings=job._deployment.settings)
    assert [worker.name for worker in found.workers] == ["gpu-1"]
    assert [silent.worker.name for silent in found.silent] == ["gpu-0"]


def test_workers_that_do_not_reach_the_blob_server_are_named(
    settings: Settings, jobs: JobStore, client: redis.Redis, job: Job
) -> None:
    # Given two workers, one of which cannot reach it
    beat(client, "gpu-0", blob_outage_s=7.0)
    beat(client, "gpu-1")
    # When / Then the other one can take the job
    assert str(job.waiting()) == "next in queue"
    # When none can, or the holder cannot, Then that is said
    beat(client, "gpu-1", blob_outage_s=7.0)
    assert job.waiting() == Wait(WaitReason.BLOBS, worker="gpu-0")
    claim(jobs, job, "gpu-1")
    assert str(job.waiting()) == "worker gpu-1 cannot reach the blob server"
    # in this process: another one may take longer to start than a worker may be silent
    lines = CliRunner().invoke(main, ["workers"], env=environment(settings)).stdout.splitlines()
    assert lines[1::2] == ["  idle · cannot reach the blob server for 7 s"] * 2


def other_holder(client: redis.Redis, job: Job, node: str) -> str:
    unit = json.loads(client.hget(job_keys(job.id, "units")[0], "segment") or b"")
    return json.dumps(unit | {"node": node})


def test_every_command_says_it(settings: Settings, client: redis.Redis, job: Job, longtake: Longtake) -> None:
    # Given a job, and a worker that went silent
    beat(client, "gpu-0")
    silence(client, "gpu-0", 40)
    # When / Then
    assert (
        "queued: no worker is online · 0 of 2 segments rendered · 0 clips"
        in longtake("status", job.id, settings=settings).stdout
    )
    assert longtake("list", settings=settings).stdout.rstrip().endswith("harbour at dawn (no worker is online)")
    waiting = json.loads(longtake("status", job.id, "--json", settings=settings).stdout)["waiting"]
    assert waiting == json.loads(longtake("list", "--json", settings=settings).stdout)["waiting"]
    assert (waiting["reason"], waiting["text"]) == ("no worker", "no worker is online")
    assert re.search(r"\n  no word for \d+ s; last idle\n", longtake("workers", settings=settings).stdout)
    assert json.loads(longtake("workers", "--json", settings=settings).stdout)[0]["silent_s"] >= 40


def test_a_list_asks_once_for_each_page(settings: Settings, client: redis.Redis, job: Job) -> None:
    found = list(iterate_waiting(settings=settings))
    assert [(status.job_id, str(wait)) for status, wait in found] == [(job.id, "no worker is online")]
    [(status, wait)] = found
    assert row_of(status, wait).endswith("(no worker is online)")
    assert json_of(status, None)["waiting"] is None


def test_watch_says_it_once_until_it_changes(job: Job) -> None:
    # Given
    out = io.StringIO()
    waits = iter([Wait(WaitReason.SILENT, worker="w1", silent_s=seconds) for seconds in (16, 18)])
    display = ProgressDisplay(Console(file=out, force_terminal=False, width=80))
    status = job.status()
    # When
    display.follow([status, status], lambda: next(waits))
    # Then
    assert out.getvalue().splitlines() == ["no word from w1 for 16 s · 0 of 2 segments rendered"]


def test_damaged_units_are_not_everybodys_problem(settings: Settings, client: redis.Redis, job: Job) -> None:
    other = submit(spec("a"), settings=settings)
    client.hset(job_keys(job.id, "units")[0], "segment", "garbage")
    assert [(status.job_id, str(wait)) for status, wait in iterate_waiting(settings=settings)] == [
        (job.id, "None"),
        (other.id, "no worker is online"),
    ]
