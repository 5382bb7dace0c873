"""Shared by the tests of bad input: a small spec, the commands that use a job, and a check of refusals."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from tasks.settings import Settings

Completed = subprocess.CompletedProcess[str]
Command = Callable[..., Completed]

SPEC = """\
title: harbour
width: 64
height: 32
frames: 17
segments:
  - prompt: a boat
  - prompt: gulls
"""
COMMANDS = (
    "status ID",
    "list",
    "watch ID",
    "cancel ID",
    "save ID -o film.mp4",
    "state export ID --segment 0",
    "worker",
)


def at_once(longtake: Command, commands: Iterable[tuple[str, Settings]]) -> list[Completed]:
    """Run commands at the same time, because they try for seconds."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda one: longtake(*one[0].split(), settings=one[1]), commands))


def check_refused(result: Completed, *words: str, lines: int = 1) -> None:
    """The command failed with short lines of ours on stderr that contain `words`; stdout is empty."""
    errors = result.stderr.splitlines()
    assert result.returncode not in (0, -signal.SIGXFSZ), result.stderr
    assert len(errors) == lines, result.stderr
    assert all(line.startswith("longtake: ") for line in errors), result.stderr
    assert all(len(line) < 400 for line in errors)
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    for word in words:
        assert word in result.stderr
