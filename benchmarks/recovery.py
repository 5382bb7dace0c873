"""Seconds until a segment of a killed worker runs on another one, with default settings.

    python -m benchmarks.recovery [--tries 3]

There are two workers. The one that renders is killed with its child, and the program measures the time until the other
one runs the engine for the same segment. The reference is the bound: LONGTAKE_LEASE_S plus 5 s.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.idle import start_server
from tasks.client.submit import submit
from tasks.jobs.connection import connect
from tasks.jobs.keys import job_keys
from tasks.settings import Settings
from tests.conftest import STAND_IN, Worker, wait_until
from tests.stand_in import STEP_S
from tests.tasks.conftest import spec


def main() -> None:
    """Print one line per try."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=3)
    tries = parser.parse_args().tries
    with tempfile.TemporaryDirectory(prefix="longtake-") as name:
        folder = Path(name)
        broker, blobs = start_server(folder / "broker"), start_server(folder / "blobs")
        settings = Settings(redis_url=broker.url, blob_url=blobs.url, home=folder, engine=STAND_IN)
        os.environ[STEP_S] = "5"  # so that a cancelled segment ends soon
        workers = [Worker(settings, folder / f"worker-{number}.log").ready() for number in range(2)]
        print(f"lease {settings.lease_s:g} s, bound {settings.lease_s + 5:g} s")
        try:
            for number in range(tries):
                print(f"try {number + 1}: {recovery(settings, workers, folder):.1f} s")
        finally:
            for worker in workers:
                worker.stop(signal.SIGQUIT)
            broker.stop()
            blobs.stop()


def recovery(settings: Settings, workers: list[Worker], folder: Path) -> float:
    """Kill the worker that renders, and return the seconds until its segment runs again. Then replace the worker."""
    job = submit(spec("a"), settings=settings)
    wait_until(lambda: unit(settings, job.id).get("engine"), what="a segment in the engine")
    held = unit(settings, job.id)
    pid = int(held["worker"].rpartition(":")[2])
    victim = next(worker for worker in workers if pid in children(worker))
    before = time.monotonic()
    for process in (pid, victim.process.pid):
        os.kill(process, signal.SIGKILL)
    wait_until(lambda: runs_elsewhere(unit(settings, job.id), held), timeout_s=120, what="the segment elsewhere")
    took = time.monotonic() - before
    job.cancel()
    workers[workers.index(victim)] = Worker(settings, folder / f"worker-{pid}.log").ready()
    return took


def unit(settings: Settings, job_id: str) -> dict[str, Any]:
    """The record of the claimed segment, or an empty one."""
    raw: Any = connect(settings.redis_url).hget(job_keys(job_id, "units")[0], "segment")
    return dict(json.loads(raw)) if raw else {}


def runs_elsewhere(now: dict[str, Any], held: dict[str, Any]) -> bool:
    """Whether a later claim is inside the engine call."""
    return bool(now.get("engine")) and now["fence"] > held["fence"]


def children(worker: Worker) -> list[int]:
    """The ids of a worker's child processes."""
    return [child.pid for child in psutil.Process(worker.process.pid).children()]


if __name__ == "__main__":
    main()
