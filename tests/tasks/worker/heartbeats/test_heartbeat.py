"""Heartbeats: who the workers are and what they do, as anyone can read it; a dead worker's entry vanishes."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from tasks.client.display.workers import list_workers
from tasks.client.submit import submit
from tasks.jobs.connection import connect
from tasks.jobs.keys import WORKERS, worker_key
from tasks.jobs.workers import ChildInfo, ChildState, WorkerInfo, WorkerRegistry
from tasks.messaging.celery_app import make_app
from tasks.settings import Settings
from tasks.worker.heartbeats.heartbeat import LIFE_S
from tests.conftest import RedisProcess, Worker, wait_until
from tests.stand_in import LOAD_FAILS
from tests.tasks.conftest import spec

PROGRAM = "tests.tasks.worker.heartbeats.fast_heartbeats"
Start = Callable[..., Worker]
Longtake = Callable[..., Any]


def only_worker(settings: Settings) -> WorkerInfo:
    [worker] = list_workers(settings=settings).workers
    return worker


def children(settings: Settings) -> list[ChildInfo]:
    """Of all living workers."""
    return [child for info in list_workers(settings=settings).living for child in info.children]


def is_idle(settings: Settings) -> bool:
    return [child.state for child in children(settings)] == ["idle"]


def test_a_heartbeat_says_what_a_worker_is_and_does(
    settings: Settings, start_worker: Start, tmp_path: Path, longtake: Longtake
) -> None:
    # Given a worker without work
    worker = start_worker(settings, program=PROGRAM)
    wait_until(lambda: is_idle(settings), what="an idle worker")
    info = only_worker(settings)
    # Then its entry says what it is
    assert (info.name, info.pid) == ("worker-0@test", worker.process.pid)
    assert (info.model, info.engine) == (settings.model, settings.engine)
    assert "" not in (info.versions.python, info.versions.celery, info.versions.torch, info.versions.diffusers)
    assert [child.pid for child in info.children] == [psutil.Process(info.pid).children()[0].pid]
    assert abs(info.clock_offset_s) < 1
    assert info.queues == ("clips", "films", "segments")
    # When it works on a job
    done = tmp_path / "done"
    job = submit(spec(f"wait until {done}"), settings=settings)
    working = wait_until(lambda: only_worker(settings).working, what="a heartbeat of the job")
    # Then the entry, `longtake status` and `longtake workers` name both
    assert (working.job_id, working.unit, working.state) == (job.id, "segment 0", ChildState.WORKING)
    assert 0 <= info.seen_at - info.started_at < 60
    assert "  worker worker-0@test: segment 0 of job" in longtake("status", job.id, settings=settings).stdout
    status = json.loads(longtake("status", job.id, "--json", settings=settings).stdout)
    assert status["workers"] == ["worker-0@test"]
    listed = longtake("workers", settings=settings).stdout.splitlines()
    assert listed[0].startswith(f"worker-0@test  process {info.pid} on ")
    assert re.match(rf"  segment 0 of job {job.id} for \d+:\d\d", listed[1])
    [shown] = json.loads(longtake("workers", "--json", settings=settings).stdout)
    assert shown["children"][0]["job_id"] == job.id
    # When the job is done, Then the worker is idle again
    done.touch()
    job.wait()
    wait_until(lambda: is_idle(settings), what="an idle worker")


def test_the_entry_of_a_worker_ends_with_it(settings: Settings, start_worker: Start) -> None:
    # Given two workers
    killed, stopped = start_worker(settings, program=PROGRAM), start_worker(settings, program=PROGRAM)
    wait_until(lambda: len(list_workers(settings=settings).living) == 2, what="two workers")
    # When one is shut down, Then its entry is removed at once
    stopped.stop()
    info = only_worker(settings)
    assert info.pid == killed.process.pid
    # When the other is killed, and the life of its entry has passed, Then it is silent
    for child in psutil.Process(killed.process.pid).children():
        child.kill()
    killed.stop(signal.SIGKILL)
    client = connect(settings.redis_url)
    client.pexpire(worker_key(info.token), client.pttl(worker_key(info.token)) - int(LIFE_S * 1000))
    found = list_workers(settings=settings)
    assert found.workers == ()
    [silent] = found.silent
    assert silent.worker.pid == killed.process.pid
    assert LIFE_S <= silent.seconds < 60
    # When its entry expires, Then no key of it is left
    client.pexpire(worker_key(info.token), 1)
    wait_until(lambda: not list_workers(settings=settings).silent, what="the end of the entry")
    assert not client.keys("longtake:worker*")


def test_the_entry_follows_the_children(settings: Settings, start_worker: Start) -> None:
    # Given
    start_worker(settings, program=PROGRAM)
    wait_until(lambda: is_idle(settings), what="an idle worker")
    [before] = wait_until(lambda: children(settings), what="its child")
    # When
    os.kill(before.pid, signal.SIGKILL)
    # Then
    wait_until(lambda: [child.pid for child in children(settings)] not in ([], [before.pid]))
    wait_until(lambda: is_idle(settings), what="an idle worker")
    # When the pool grows and shrinks, Then so does the entry
    with make_app(settings) as app:
        app.control.pool_grow(1)
        wait_until(lambda: len(children(settings)) == 2, what="a second child")
        wait_until(lambda: [child.state for child in children(settings)] == ["idle", "idle"])
        app.control.pool_shrink(1)
        wait_until(lambda: len(children(settings)) == 1, what="the end of a child")


def test_a_worker_that_ends_by_a_host_fault_leaves_the_reason(
    settings: Settings, start_worker: Start, monkeypatch: pytest.MonkeyPatch, longtake: Longtake
) -> None:
    # Given
    monkeypatch.setenv(LOAD_FAILS, "1")
    sick = start_worker(settings, program=PROGRAM)
    # When
    wait_until(lambda: sick.process.poll(), what="the end of the sick worker")
    # Then
    found = list_workers(settings=settings)
    assert not found.living
    [ended] = found.ended
    assert str(ended.fault).startswith("model shapes cannot be loaded: RuntimeError: CUDA error")
    assert 60 < connect(settings.redis_url).ttl(worker_key(ended.token)) <= 600
    assert "ended: model shapes cannot be loaded" in longtake("workers", settings=settings).stdout


def test_a_second_worker_of_the_same_name_is_warned(settings: Settings, start_worker: Start) -> None:
    # Given
    first = start_worker(settings, "--name", "same@host", program=PROGRAM).ready()
    # When
    second = start_worker(settings, "--name", "same@host", program=PROGRAM)
    # Then
    warning = f"another worker, process {first.process.pid} on "
    wait_until(lambda: warning in second.text(), what="the warning")
    assert "same@host, too: give each worker its own --name" in second.text()
    assert warning not in first.text()


def test_an_outage_adds_no_line(own_server: RedisProcess, own_settings: Settings, start_worker: Start) -> None:
    # Given
    worker = start_worker(own_settings, program=PROGRAM)
    wait_until(lambda: list_workers(settings=own_settings).living, what="a heartbeat")
    # When the broker is down for a while
    own_server.stop(signal.SIGKILL)
    wait_until(lambda: "cannot be used, waiting for it" in worker.text(), what="the line")
    own_server.start()
    # Then the worker comes back, and its heartbeat adds no line
    wait_until(lambda: list_workers(settings=own_settings).living, what="a heartbeat")
    wait_until(lambda: "can be used again" in worker.text(), what="the line")
    assert "heartbeat" not in worker.text()


def info(token: str = "t", **changes: Any) -> WorkerInfo:
    fields = {"name": f"{token}@host", "host": "host", "pid": 1, "started_at": 1.0, "seen_at": 2.0}
    return WorkerInfo(**{"token": token, "clock_offset_s": 0.0, "model": "m", "engine": "e", **fields, **changes})


def test_entries_that_cannot_be_read_are_named_and_skipped(settings: Settings) -> None:
    # Given an entry of a later minor version, a later major one, and damaged ones
    client = redis.Redis.from_url(settings.redis_url)
    WorkerRegistry(client).write(info("good"), life_s=60)
    entry = json.loads(client.get(worker_key("good")) or b"")
    assert entry["format"]
    others = {
        "later": entry | {"token": "later", "format": "0.9", "mood": "fine"},
        "newer": entry | {"format": "9.0"},
        "wrong": entry | {"pid": "x"},
        "list": [],
    }
    for token, value in others.items():
        client.set(worker_key(token), json.dumps(value))
    client.set(worker_key("bytes"), b"\xff")
    client.set(worker_key("deep"), b"[" * 100_000)
    client.sadd(WORKERS, *others, "bytes", "deep", "gone", b"\xff")
    # When
    found = list_workers(settings=settings)
    # Then
    assert [worker.token for worker in found.workers] == ["good", "later"]
    assert {line.partition(":")[0] for line in found.unreadable} == {"newer", "wrong", "list", "bytes", "deep"}
    assert b"gone" not in client.smembers(WORKERS)


def test_an_entry_is_small_whatever_is_in_it() -> None:
    large = info(name="n" * 10_000, host="\x1b[2J", model="m" * 10_000, fault="f" * 10_000, queues=("q" * 1000,) * 3)
    assert len(large.pack()) < 2048
    assert WorkerInfo.unpack(large.pack()).name == "n" * 200
    assert WorkerInfo.unpack(large.pack()).host == "?[2J"
