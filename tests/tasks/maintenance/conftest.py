"""A deployment whose workers are heartbeats, for the tests of `longtake doctor`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from tasks.jobs.queues import QUEUES
from tasks.jobs.workers import ChildInfo, ChildState, Gpu, Versions, WorkerInfo, WorkerRegistry
from tasks.maintenance.doctor import examine
from tasks.settings import Settings
from tests.conftest import STAND_IN, RedisProcess

Start = Callable[..., RedisProcess]
GPU = Gpu("H200", 140 * 2**30, "GPU-1")
HEALTHY = WorkerInfo(
    token="healthy",
    name="gpu-0@host",
    host="host",
    pid=7,
    started_at=1.0,
    seen_at=2.0,
    clock_offset_s=0.0,
    model="shapes",
    engine=STAND_IN,
    queues=tuple(sorted(QUEUES)),
    versions=Versions("0.2.0", "3.12.1", "5.7.0", "2.13.0", "0.42.1"),
    children=(ChildInfo(8, ChildState.IDLE, 1.5, gpu=GPU),),
)


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    """A server that keeps its data."""
    server = RedisProcess(tmp_path_factory.mktemp("kept"), "--appendonly", "yes")
    yield server
    server.stop()


@pytest.fixture
def client(kept: RedisProcess) -> Iterator[redis.Redis]:
    with redis.Redis(port=kept.port) as client:
        client.flushall()
        yield client


@pytest.fixture
def healthy(kept: RedisProcess, client: redis.Redis, home: Path) -> Settings:
    """A deployment with one worker and nothing wrong."""
    add(client, HEALTHY)
    return Settings(redis_url=kept.url, home=home, engine=STAND_IN)


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Start]:
    started: list[RedisProcess] = []

    def start(*options: str) -> RedisProcess:
        folder = tmp_path / f"redis-{len(started)}"
        folder.mkdir()
        started.append(RedisProcess(folder, *options))
        return started[-1]

    yield start
    for server in started:
        server.stop()


def add(client: redis.Redis, *workers: WorkerInfo) -> None:
    for worker in workers:
        WorkerRegistry(client).write(worker, life_s=60)


def another(**changes: Any) -> WorkerInfo:
    """A second healthy worker, with `changes`."""
    second = replace(HEALTHY, token="second", name="gpu-1@host", pid=17)
    child = ChildInfo(18, ChildState.IDLE, 1.5, gpu=replace(GPU, uuid="GPU-2"))
    return replace(second, **{"children": (child,), **changes})


def texts(settings: Settings) -> list[str]:
    return [f"{finding.severity}: {finding.about}: {finding}" for finding in examine(settings).findings]


def only(settings: Settings) -> str:
    """The one finding."""
    [text] = texts(settings)
    return text
