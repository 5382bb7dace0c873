"""The Celery application of this process, with the settings of its environment."""

from __future__ import annotations

import sys

import click
from celery import Celery

from tasks.errors import ConfigError
from tasks.messaging.celery_app import make_app
from tasks.settings import Settings, misspelt


def _make() -> Celery:
    """The application; in a command of Celery, an invalid setting is one line, where Celery shows a traceback."""
    in_celery_command = "celery.bin.celery" in sys.modules and click.get_current_context(silent=True) is not None
    try:
        made = make_app(Settings.from_env())
    except ConfigError as error:
        if in_celery_command:
            sys.exit(f"longtake: {error}")
        raise
    for line in misspelt() if in_celery_command else ():
        print(f"longtake: {line}", file=sys.stderr)
    return made


app = _make()
