"""Seconds that `longtake list`, `status` and `gc` take in a deployment with many jobs.

    python -m benchmarks.many_jobs [--jobs 10000]

The program starts a server and writes the records of ended jobs, each with one pinned blob. Each command runs three
times as a user runs it, start of Python included; the fastest counts.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import redis

from blobstore import open_blob_store
from tasks.jobs.changes.lifetimes import new_job_id
from tasks.jobs.connection import connect
from tasks.jobs.store import JobStore
from tasks.jobs.units import JobState
from tasks.settings import Settings
from tasks.spec.loader import check_spec
from tests.conftest import RedisProcess, environment
from tests.tasks.conftest import spec

TRIES = 3
LISTS = ("list", "list --json", "list --json --limit 20", "list --json --state running")


def main() -> None:
    """Print one line per command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=10_000)
    count = parser.parse_args().jobs
    with tempfile.TemporaryDirectory(prefix="longtake-") as folder:
        server = RedisProcess(Path(folder))
        try:
            settings = Settings(redis_url=server.url, home=Path(folder))
            last = write_jobs(settings, count)
            print(f"{count} jobs")
            for command in ("--version", f"status {last}", "gc --dry-run", "gc", *LISTS):
                before = commands_of(server)
                seconds, status = min(run(settings, *command.split()) for _ in range(TRIES))
                sent = (commands_of(server) - before) // TRIES
                print(f"{command:28} {seconds:6.2f} s  {sent:7} commands of the server  exit status {status}")
        finally:
            server.stop()


def write_jobs(settings: Settings, count: int) -> str:
    """Write so many ended jobs; returns the id of the last."""
    jobs, blobs = JobStore(connect(settings.redis_url), settings), open_blob_store(settings.blobs)
    small = check_spec(spec("a", "b"))
    for _ in range(count):
        job_id = new_job_id()
        assert jobs.create(job_id, small, model="shapes")
        blobs.pin([blobs.put(job_id.encode(), owner=job_id)], job_id)
        jobs.stop(job_id, JobState.CANCELLED, "cancelled by user")
    blobs.close()
    jobs.close()
    return job_id


def run(settings: Settings, *arguments: str) -> tuple[float, int]:
    """Run `longtake`; returns seconds and exit status."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "tasks.cli", *arguments]
    ended = subprocess.run(command, env=environment(settings), capture_output=True, check=False)
    return time.perf_counter() - began, ended.returncode


def commands_of(server: RedisProcess) -> int:
    """How many commands the server has run."""
    return int(redis.Redis(port=server.port).info("stats")["total_commands_processed"])


if __name__ == "__main__":
    main()
