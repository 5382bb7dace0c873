"""Deployments with a worker whose engine is a stand-in, and the reference film."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.client.job import Job
from tasks.client.submit import submit
from tasks.jobs.connection import connect
from tasks.jobs.results import Announcement
from tasks.jobs.store import JobStore
from tasks.settings import Settings
from tests.conftest import STAND_IN, RedisProcess, Worker

pytest.register_assert_rewrite(
    "tests.tasks.jobs.fault_free_end", "tests.tasks.jobs.job_pair", "tests.tasks.server.exchanges"
)


def spec(*prompts: str, **changes: Any) -> dict[str, Any]:
    small = {"title": "harbour at dawn", "width": 64, "height": 32, "frames": 17, "seed": 3}
    return {**small, **changes, "segments": [{"prompt": prompt} for prompt in prompts]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    server = RedisProcess(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def module_settings(server: RedisProcess, home: Path) -> Settings:
    return Settings(redis_url=server.url, home=home, engine=STAND_IN, lease_s=2.0, reconcile_s=0.25)


@pytest.fixture(scope="module")
def worker(module_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    worker = Worker(module_settings, tmp_path_factory.mktemp("worker") / "worker.log").ready()
    yield worker
    worker.end()


@pytest.fixture(scope="module")
def reference_film(module_settings: Settings, worker: Worker) -> str:
    """The hash of the film of `spec("a", "b", "c", "d")` when nothing goes wrong."""
    film = submit(spec("a", "b", "c", "d"), settings=module_settings).wait().status().film
    assert film
    return film.sha256


def film_hash_of(job: Job) -> str:
    film = job.wait().status().film
    assert film
    return film.sha256


def ticket_of(announced: Announcement | None) -> int:
    return announced.ticket if announced else 0


def job_store(settings: Settings) -> JobStore:
    return JobStore(connect(settings.redis_url), settings)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RedisProcess]:
    """A Redis for one test, which may break it."""
    server = RedisProcess(tmp_path)
    yield server
    server.stop()


@pytest.fixture
def own_settings(own_server: RedisProcess, module_settings: Settings) -> Settings:
    """A deployment for one test, without a worker yet."""
    return module_settings.model_copy(update={"redis_url": own_server.url})
