"""Script calls and reads that one four-step segment costs the broker and the blob server.

    python -m benchmarks.round_trips [--segments 40] [--rtt-ms 80]

One worker renders a job of 64x32 segments with a stand-in engine of four steps; clips and the film are included. The
servers count EVALSHA calls and reads; reads are round trips while blobs are small, and a pipeline is one. The share of
an idle deployment in the same time is subtracted. With `--rtt-ms`, proxies delay what the worker sends and receives.
The time per segment is the median from one engine call to the next, without submission and film.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import redis
from numpy.typing import NDArray

from benchmarks.idle import calls, start_server
from tasks import Settings, submit
from tasks.deployment import Deployment
from tests.conftest import STAND_IN, RedisProcess, Worker
from tests.proxies import Proxy
from tests.tasks.conftest import spec

IDLE_S = 10.0


def main() -> None:
    """Print one line per server."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--segments", type=int, default=40)
    parser.add_argument("--rtt-ms", type=float, default=0.0)
    arguments = parser.parse_args()
    segments = arguments.segments
    with tempfile.TemporaryDirectory(prefix="longtake-") as name, ExitStack() as stack:
        folder = Path(name)
        servers = {role: start_server(folder / role) for role in ("broker", "blobs")}
        settings = Settings(
            redis_url=servers["broker"].url, blob_url=servers["blobs"].url, home=folder, engine=STAND_IN
        )
        delay_s = arguments.rtt_ms / 2000
        far = {role: stack.enter_context(Proxy(server.port, delay_s=delay_s)).url for role, server in servers.items()}
        distant = settings.model_copy(update={"redis_url": far["broker"], "blob_url": far["blobs"]})
        worker = Worker(distant if delay_s else settings, folder / "worker.log").ready()
        try:
            submit(spec("a", "b"), settings=settings).wait()  # loads every script
            before = {role: counts(server) for role, server in servers.items()}
            time.sleep(IDLE_S)
            idle = {role: (counts(server) - before[role]) / IDLE_S for role, server in servers.items()}
            before = {role: counts(server) for role, server in servers.items()}
            start = time.monotonic()
            job = submit(spec(*[f"segment {i}" for i in range(segments)]), settings=settings).wait()
            seconds = time.monotonic() - start
            for role, server in servers.items():
                scripts, reads = (counts(server) - before[role] - idle[role] * seconds) / segments
                print(f"{role:7} {scripts:5.1f} EVALSHA, {reads:5.1f} reads per segment")
            with Deployment(settings) as deployment:
                started = [handoff.engine_started for handoff in deployment.jobs.handoffs(job.id)]
            print(f"{np.median(np.diff(started)):.2f} s per segment")
        finally:
            worker.stop()
            for server in servers.values():
                server.stop()


def counts(server: RedisProcess) -> NDArray[np.float64]:
    """EVALSHA calls and reads since the server started."""
    reads = redis.Redis(port=server.port).info("stats")["total_reads_processed"]
    return np.array([calls(server)["evalsha"], float(reads)])


if __name__ == "__main__":
    main()
