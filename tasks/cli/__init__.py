"""The command `longtake`."""

from __future__ import annotations

from tasks.cli import deployments, films, jobs, serve, takes  # noqa: F401 - each adds its commands to `main`
from tasks.cli.command import main

__all__ = ["main"]
