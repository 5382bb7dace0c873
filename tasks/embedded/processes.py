"""Child processes that end with their parent."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from ltx2.processes import die_with_parent

STOP_TIMEOUT_S = 10.0


def start(
    command: Sequence[str],
    *,
    log: IO[bytes],
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    umask: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start `command` in a new session, so that Ctrl-C reaches only the parent. umask: default: this process's."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=None if environ is None else dict(environ),
        cwd=cwd,
        start_new_session=True,
        preexec_fn=die_with_parent,
        umask=-1 if umask is None else umask,
    )


def stop(process: subprocess.Popen[bytes], number: int, *, timeout_s: float = STOP_TIMEOUT_S) -> None:
    """Send the signal `number` and wait; after `timeout_s`, kill the process group."""
    if process.poll() is not None:
        return
    process.send_signal(number)
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def last_lines(path: Path, count: int = 15) -> str:
    """The last lines of a log; empty if it cannot be read."""
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-count:])
    except OSError:
        return ""
