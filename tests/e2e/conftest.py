"""A deployment without a worker, and a job that was done on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ltx2.checkpoints.random import ensure
from tasks.client.job import Job
from tasks.client.submit import submit
from tasks.settings import Settings
from tests.conftest import STAND_IN, RedisProcess, Worker
from tests.e2e.refusals import SPEC


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Settings]:
    server = RedisProcess(tmp_path_factory.mktemp("redis"))
    yield Settings(redis_url=server.url, home=home, engine=STAND_IN, lease_s=2.0)
    server.stop()


@pytest.fixture(scope="module")
def job(here: Settings, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job that is done."""
    folder = tmp_path_factory.mktemp("job")
    (folder / "spec.yaml").write_text(SPEC)
    worker = Worker(here, folder / "worker.log")
    try:
        return submit(folder / "spec.yaml", settings=here).wait()
    finally:
        worker.stop()


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    return path


@pytest.fixture
def tiny(home: Path) -> Path:
    """The folder of the small model."""
    return ensure(home / "models", "tiny")
