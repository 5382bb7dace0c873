"""The Celery application of this process, with the settings of its environment."""

from __future__ import annotations

from tasks.messaging.celery_app import make_app
from tasks.settings import Settings

app = make_app(Settings.from_env())
