"""How much faster a film of equal parts is on several workers than on one, with the sleeping engine.

    python benchmarks/parts.py [--parts 8] [--segments 2] [--seconds 5] [--workers 1 4] [--json out/parts.json]

A part is a cut and what continues it. Each number of workers has a job of its own on one deployment, with default
settings, and workers that have loaded their model. A run is from the submission to the last committed segment. The
engine sleeps `--seconds` for each segment, so the workers share the machine as if each had a GPU; pictures are small.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it also runs as a file

from benchmarks import report
from benchmarks.scale import servers
from benchmarks.sleeping import DECODE_S, DENOISE_S, SCALE
from tasks.client.submit import submit
from tasks.jobs.connection import connect
from tasks.jobs.store import JobStore
from tasks.settings import Settings
from tests.conftest import Worker, wait_until

ENGINE = "benchmarks.sleeping:SleepingEngine"
WIDTH, HEIGHT = 192, 128  # of `shapes`
PROMPT = "a red circle moves left over a blue background, low hum"


def main() -> None:
    """Run each number of workers, and print a line for each."""
    parser = report.parser(str(__doc__), "parts")
    parser.add_argument("--parts", type=int, default=8)
    parser.add_argument("--segments", type=int, default=2, help="of each part")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each segment of the sleeping engine")
    parser.add_argument("--model", help="a small model instead, on the CPU")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4])
    options = parser.parse_args()
    os.environ[SCALE] = str(options.seconds / ((DENOISE_S + DECODE_S) * WIDTH * HEIGHT))
    os.environ["OMP_NUM_THREADS"] = "1"
    engine = {"model": options.model, "device": "cpu"} if options.model else {"engine": ENGINE}
    more = {name: getattr(options, name) for name in ("parts", "segments", "seconds", "model")}
    with servers() as (broker, blobs), tempfile.TemporaryDirectory(prefix="longtake-") as folder, ExitStack() as stack:
        settings = Settings(redis_url=broker.url, blob_url=blobs.url, home=Path(folder), **engine)
        jobs = JobStore(connect(settings.redis_url), settings)
        started, rows, films = 0, list[dict[str, Any]](), set[str]()
        for count in sorted(options.workers):
            while started < count:
                worker = Worker(settings, Path(folder) / f"worker-{started}.log")
                stack.callback(worker.stop, signal.SIGQUIT)
                started += 1
            row, film = run(settings, jobs, options, count)
            films.add(film)
            rows.append(row | {"times as fast": (rows or [row])[0]["seconds"] / row["seconds"]})
            print(report.table(rows[-1:]), flush=True)
            report.save("parts", rows, options.json, **more, films=len(films))
    report.write("parts", rows, options.json, **more, films=len(films))
    if len(films) > 1:
        sys.exit("the films DIFFER")


def run(settings: Settings, jobs: JobStore, options: argparse.Namespace, workers: int) -> tuple[dict[str, Any], str]:
    """The figures of one film on so many idle workers, and its hash."""
    wait_until(lambda: sum(one.is_idle for one in jobs.workers().living) == workers, what="idle workers")
    prompts = [{"prompt": PROMPT}] * options.segments
    segments = [*prompts, *([prompts[0] | {"transition": "cut"}, *prompts[1:]] * (options.parts - 1))]
    spec = {"title": "parts", "width": WIDTH, "height": HEIGHT, "frames": 25, "segments": segments}
    began = time.monotonic()
    with submit(spec, settings=settings) as job:
        wait_until(lambda: job.status().rendered == len(segments), timeout_s=3600, what="the last segment")
        seconds = time.monotonic() - began
        film = job.wait().status().film
        names = {handoff.worker for handoff in jobs.handoffs(job.id)}
    assert film is not None
    row = {"workers": workers, "at work": len(names), "segments": len(segments), "seconds": seconds}
    return row, film.sha256


if __name__ == "__main__":
    main()
