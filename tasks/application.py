"""The Celery application of this process, with the settings of its environment."""

from __future__ import annotations

from tasks.broker import make_app
from tasks.config import Settings

app = make_app(Settings.from_env())
