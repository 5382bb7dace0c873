"""A deployment without a running worker, a finished job on it, and input files."""

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
def module_settings(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Settings]:
    """Settings of a deployment without a running worker."""
    server = RedisProcess(tmp_path_factory.mktemp("redis"))
    yield Settings(redis_url=server.url, home=home, engine=STAND_IN, lease_s=2.0)
    server.stop()


@pytest.fixture(scope="module")
def job(module_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A finished job."""
    folder = tmp_path_factory.mktemp("job")
    (folder / "spec.yaml").write_text(SPEC)
    worker = Worker(module_settings, folder / "worker.log")
    try:
        return submit(folder / "spec.yaml", settings=module_settings).wait()
    finally:
        worker.stop()


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """A small spec file in the command's working directory."""
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    return path


@pytest.fixture
def tiny(home: Path) -> Path:
    """The folder of the model `tiny`."""
    return ensure(home / "models", "tiny")
