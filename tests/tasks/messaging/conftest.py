"""A worker that logs every refused message."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tasks.settings import Settings
from tests.conftest import Worker

REFUSAL_WORKER = "tests.tasks.messaging.refusal_worker"


@pytest.fixture(scope="module")
def worker(module_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    log = tmp_path_factory.mktemp("worker") / "worker.log"
    worker = Worker(module_settings, log, program=REFUSAL_WORKER).ready()
    yield worker
    worker.end()
