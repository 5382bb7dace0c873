"""Commands per second that an idle deployment sends to its two servers.

    python -m benchmarks.idle [--seconds 20]

With one worker, it measures first no job, then a hundred jobs queued behind one whose segment does not end. The program
starts the servers and the worker. The engine is a stand-in; all other settings are the defaults.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from tasks.client.submit import submit
from tasks.settings import Settings
from tests.conftest import STAND_IN, RedisProcess, Worker, wait_until
from tests.stand_in import STEP_S
from tests.tasks.conftest import spec

WAITING = 100
SHOWN = 6


def main() -> None:
    """Print one line per state and server."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0)
    seconds = parser.parse_args().seconds
    print(f"{'state':28} {'server':7} {'commands/s':>10}  most frequent (per s)")
    with deployment() as (settings, broker, blobs):
        measure("no job", seconds, broker=broker, blobs=blobs)
        jobs = [submit(spec("a"), settings=settings) for _ in range(1 + WAITING)]
        wait_until(lambda: jobs[0].status().state == "running", what="the first job")
        measure(f"{WAITING} jobs behind a running one", seconds, broker=broker, blobs=blobs)


@contextmanager
def deployment() -> Iterator[tuple[Settings, RedisProcess, RedisProcess]]:
    """Two servers and a worker whose segments do not end during the program."""
    with tempfile.TemporaryDirectory(prefix="longtake-") as name:
        folder = Path(name)
        servers = [start_server(folder / role) for role in ("broker", "blobs")]
        broker, blobs = servers
        settings = Settings(redis_url=broker.url, blob_url=blobs.url, home=folder, engine=STAND_IN)
        os.environ[STEP_S] = "3600"
        worker = Worker(settings, folder / "worker.log").ready()
        try:
            yield settings, broker, blobs
        finally:
            worker.stop(signal.SIGQUIT)
            for server in servers:
                server.stop()


def start_server(folder: Path) -> RedisProcess:
    """A server with an append-only file, as recommended."""
    folder.mkdir()
    return RedisProcess(folder, "--appendonly", "yes")


def measure(state: str, seconds: float, **servers: RedisProcess) -> None:
    """Count the servers' commands for `seconds`, both scripts and the commands inside them."""
    before = {name: calls(server) for name, server in servers.items()}
    time.sleep(seconds)
    for name, server in servers.items():
        made = calls(server) - before[name]
        made.subtract(info=1)  # by this program
        most = ", ".join(f"{command} {count / seconds:.1f}" for command, count in made.most_common(SHOWN) if count > 0)
        print(f"{state:28} {name:7} {made.total() / seconds:10.1f}  {most}")


def calls(server: RedisProcess) -> Counter[str]:
    """How often each command was called since the server started."""
    stats = redis.Redis(port=server.port).info("commandstats")
    return Counter({name.removeprefix("cmdstat_"): int(entry["calls"]) for name, entry in stats.items()})


if __name__ == "__main__":
    main()
