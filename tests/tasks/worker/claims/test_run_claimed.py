"""Work whose claim meets an outage."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.deployment import Deployment
from tasks.errors import WorkFailedError
from tasks.jobs.units import WorkUnit
from tasks.settings import Settings
from tasks.worker.claims.run_claimed import run_claimed
from tasks.worker.engines import EngineSlot
from tests.conftest import free_port


def test_a_broker_that_stays_away_fails_the_task_without_a_traceback(home: Path) -> None:
    # Given a message that was taken just before the broker was lost
    settings = Settings(redis_url=f"redis://127.0.0.1:{free_port()}/0", home=home)
    with Deployment(settings) as deployment:
        parts = {"settings": settings, "deployment": deployment, "engines": EngineSlot(settings)}
        context: Any = SimpleNamespace(**parts, worker="w", node="n", unusable=False)
        task: Any = None
        # When / Then Celery expects this error, and logs no traceback
        with pytest.raises(WorkFailedError, match="a worker tries again"):
            run_claimed(task, context, "job", WorkUnit.segment(0), 1, lambda _: {})
