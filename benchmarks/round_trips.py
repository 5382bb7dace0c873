"""Script calls that one four-step segment costs the broker and the blob server.

    python -m benchmarks.round_trips [--segments 40]

One worker renders a job of 64x32 segments with a stand-in engine of four steps; clips and the film are included. The
servers count: EVALSHA is one round trip each. The share of an idle deployment in the same time is subtracted.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks.idle import calls, start_server
from tasks import Settings, submit
from tests.conftest import STAND_IN, Worker
from tests.tasks.conftest import spec

IDLE_S = 10.0


def main() -> None:
    """Print one line per server."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--segments", type=int, default=40)
    segments = parser.parse_args().segments
    with tempfile.TemporaryDirectory(prefix="longtake-") as name:
        folder = Path(name)
        servers = {role: start_server(folder / role) for role in ("broker", "blobs")}
        settings = Settings(
            redis_url=servers["broker"].url, blob_url=servers["blobs"].url, home=folder, engine=STAND_IN
        )
        worker = Worker(settings, folder / "worker.log").ready()
        try:
            submit(spec("a", "b"), settings=settings).wait()  # loads every script
            rates = {}
            for role, server in servers.items():
                before = calls(server)
                time.sleep(IDLE_S)
                rates[role] = scripts(calls(server) - before) / IDLE_S
            before_job = {role: calls(server) for role, server in servers.items()}
            start = time.monotonic()
            submit(spec(*[f"segment {i}" for i in range(segments)]), settings=settings).wait()
            seconds = time.monotonic() - start
            for role, server in servers.items():
                made = scripts(calls(server) - before_job[role]) - rates[role] * seconds
                print(f"{role:7} {made / segments:5.1f} EVALSHA per segment, {rates[role]:.1f} per second while idle")
        finally:
            worker.stop()
            for server in servers.values():
                server.stop()


def scripts(made: Counter[str]) -> int:
    """The calls that ran a script."""
    return made["evalsha"] + made["eval"]


if __name__ == "__main__":
    main()
