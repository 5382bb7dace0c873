"""longtake: long videos as chains of Celery tasks.

    from tasks import submit
    job = submit({"title": "harbour", "segments": [{"prompt": "a boat leaves"}, {"prompt": "fog rolls in"}]})
    job.wait().save("film.mp4")

`celery -A tasks worker` and `celery -A tasks flower` find the application `app` here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks.application import app
    from tasks.client import Job, list_jobs, submit
    from tasks.config import Settings
    from tasks.errors import LongtakeError
    from tasks.spec import JobSpec, SegmentSpec, load_spec

__all__ = [
    "Job",
    "JobSpec",
    "LongtakeError",
    "SegmentSpec",
    "Settings",
    "app",
    "list_jobs",
    "load_spec",
    "submit",
]

_HOMES = {
    "Job": "tasks.client",
    "JobSpec": "tasks.spec",
    "LongtakeError": "tasks.errors",
    "SegmentSpec": "tasks.spec",
    "Settings": "tasks.config",
    "app": "tasks.application",
    "list_jobs": "tasks.client",
    "load_spec": "tasks.spec",
    "submit": "tasks.client",
}


def __getattr__(name: str) -> Any:
    # Opened on first use: `app` reads the environment, and `longtake --help` should not wait for Celery.
    if name not in _HOMES:
        raise AttributeError(f"module 'tasks' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
