"""A process that has loaded everything a worker needs, and makes each worker as a copy of itself.

A worker takes seconds to load Celery and torch, and the tests that end workers need dozens of them.

Started as `python -m tests.faults.nursery`. Each line of its input is JSON, `name` and `log` of a worker to make; the
answer is a line with its process id.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tasks.embedded import processes


class Copy:
    """A process that this one has not started itself, with what tests need of `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._process = psutil.Process(pid)

    def poll(self) -> int | None:
        """None while it lives; its exit status is not known."""
        try:
            lives = self._process.is_running() and self._process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            lives = False
        return None if lives else 0

    def wait(self, timeout: float | None = None) -> int:
        """Return when it has ended."""
        end = time.monotonic() + (timeout or 60)
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 60)
            time.sleep(0.02)
        return 0

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)


class Nursery:
    """The process that makes workers; it and they end with this one."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        command = [sys.executable, "-m", "tests.faults.nursery"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environ,
            cwd=folder,
            text=True,
            start_new_session=True,
            preexec_fn=processes.die_with_parent,
        )

    def make(self, name: str, log: Path) -> Copy:
        """A new worker of this name."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({"name": name, "log": str(log)}) + "\n")
        self._process.stdin.flush()
        return Copy(int(self._process.stdout.readline()))

    def close(self) -> None:
        """End it."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def become_worker(name: str, log: str) -> None:
    """Turn this process into a worker."""
    from tests.faults.worker import work

    os.setsid()
    processes.die_with_parent()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for stream, path, flags in ((0, os.devnull, os.O_RDONLY), (1, log, os.O_WRONLY), (2, log, os.O_WRONLY)):
        handle = os.open(path, flags | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(handle, stream)
        os.close(handle)
    work(["--name", name, "--loglevel", "WARNING"])


def serve() -> None:
    """Make a worker for every line of input."""
    for name in (
        "tasks.worker.segment_task",
        "tasks.worker.clip_task",
        "tasks.worker.film_task",
        "tasks.worker.lifecycle",
        "tests.faults.worker",
    ):
        importlib.import_module(name)

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody here waits for them
    while line := sys.stdin.readline():
        wanted = json.loads(line)
        pid = os.fork()
        if not pid:
            become_worker(wanted["name"], wanted["log"])
            os._exit(0)
        print(pid, flush=True)


if __name__ == "__main__":
    serve()
