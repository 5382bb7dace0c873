"""What the tests of bad input share: a small spec, the commands about a job, and what a refusal looks like."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable

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


def check_refused(result: Completed, *words: str, lines: int = 1) -> None:
    """Every line on stderr is ours and names what was wrong; stdout is empty."""
    told = result.stderr.splitlines()
    assert result.returncode not in (0, -signal.SIGXFSZ), result.stderr
    assert len(told) == lines, result.stderr
    assert all(line.startswith("longtake: ") for line in told), result.stderr
    assert all(len(line) < 400 for line in told)
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    for word in words:
        assert word in result.stderr
