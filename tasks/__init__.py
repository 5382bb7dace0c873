"""longtake: long videos as chains of Celery tasks.

    from tasks import submit
    job = submit({"title": "harbour", "segments": [{"prompt": "a boat leaves"}, {"prompt": "fog rolls in"}]})
    job.wait().save("film.mp4")

`celery -A tasks worker` and `celery -A tasks flower` use the Celery application `app`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks.client.edit import edit
    from tasks.client.job import Job
    from tasks.client.submit import list_jobs, submit
    from tasks.errors import LongtakeError
    from tasks.settings import Settings
    from tasks.spec.loader import load_spec
    from tasks.spec.schema import JobSpec
    from tasks.spec.segments import SegmentSpec
    from tasks.worker.app import app

__all__ = [
    "Job",
    "JobSpec",
    "LongtakeError",
    "SegmentSpec",
    "Settings",
    "app",
    "edit",
    "list_jobs",
    "load_spec",
    "submit",
]

_MODULES = {
    "Job": "tasks.client.job",
    "JobSpec": "tasks.spec.schema",
    "LongtakeError": "tasks.errors",
    "SegmentSpec": "tasks.spec.segments",
    "Settings": "tasks.settings",
    "app": "tasks.worker.app",
    "edit": "tasks.client.edit",
    "list_jobs": "tasks.client.submit",
    "load_spec": "tasks.spec.loader",
    "submit": "tasks.client.submit",
}


def __getattr__(name: str) -> Any:
    # Imported on first use: `app` reads the environment, and `longtake --help` must not load Celery.
    if name not in _MODULES:
        raise AttributeError(f"module 'tasks' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
