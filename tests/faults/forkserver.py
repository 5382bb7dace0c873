"""A process that has imported everything a worker needs, and forks one worker per request.

A worker needs seconds to import Celery and torch, and the tests that kill workers need dozens of them.

Started as `python -m tests.faults.forkserver`. Each line on stdin is a JSON object: `name` and `log` of a new worker.
Each line on stdout is the process id of that worker.
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


class ForkedProcess:
    """A process that is not our child, with the methods of `subprocess.Popen` that tests need."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._process = psutil.Process(pid)

    def poll(self) -> int | None:
        """None while it runs, then 0; its real exit status is unknown."""
        try:
            runs = self._process.is_running() and self._process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            runs = False
        return None if runs else 0

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended."""
        end = time.monotonic() + (timeout or 60)
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 60)
            time.sleep(0.02)
        return 0

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)


class ForkServer:
    """Client of the fork server process, which ends with this process, as do its workers."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        command = [sys.executable, "-m", "tests.faults.forkserver"]
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

    def fork(self, name: str, log: Path) -> ForkedProcess:
        """Start a worker with this name."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({"name": name, "log": str(log)}) + "\n")
        self._process.stdin.flush()
        return ForkedProcess(int(self._process.stdout.readline()))

    def close(self) -> None:
        """End the fork server."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def become_worker(name: str, log: str) -> None:
    """Run a worker in this forked process."""
    from tests.faults.worker import run_worker

    os.setsid()
    processes.die_with_parent()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for stream, path, flags in ((0, os.devnull, os.O_RDONLY), (1, log, os.O_WRONLY), (2, log, os.O_WRONLY)):
        handle = os.open(path, flags | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(handle, stream)
        os.close(handle)
    run_worker(["--name", name, "--loglevel", "WARNING"])


def serve() -> None:
    """Fork a worker for every line on stdin."""
    for name in (
        "tasks.worker.segment_task",
        "tasks.worker.clip_task",
        "tasks.worker.film_task",
        "tasks.worker.lifecycle",
        "tests.faults.worker",
    ):
        importlib.import_module(name)

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps workers: nothing here waits for them
    while line := sys.stdin.readline():
        request = json.loads(line)
        pid = os.fork()
        if not pid:
            become_worker(request["name"], request["log"])
            os._exit(0)
        print(pid, flush=True)


if __name__ == "__main__":
    serve()
