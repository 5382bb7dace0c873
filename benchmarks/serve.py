"""What watching costs: many clients of one `longtake serve` while workers render.

    python benchmarks/serve.py [--clients 200] [--players 50] [--workers 2] [--minutes 5] [--json out/serve.json]

Each worker renders a long job with the small model on the CPU, one thread each. Half of the clients read the events of
each, and half of the players play it as HLS, from processes of their own. Windows without and with them alternate, so
that a busy machine affects both alike. A segment's time is that from the end of the one before to its own end, engine
and handoff, and counts in the window that has all of it. `slow` adds clients that read nothing, and clients that vanish
again and again. At the end the server is killed and started again while shorter jobs render, and each client's events
are compared with those in Redis. The program starts all processes; the machine should have nothing else to do.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import httpx2
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it also runs as a file

from benchmarks import report
from benchmarks.viewers import Seen, watch
from tasks.client.job import Job
from tasks.client.submit import submit
from tasks.embedded import processes
from tasks.jobs.connection import connect
from tasks.jobs.events import BEGINNING, EventReader
from tasks.jobs.store import JobStore
from tasks.settings import Settings
from tests.conftest import RedisProcess, Worker, environment, free_port, wait_until

LONG, SHORT = 600, 20  # segments; a job that ends is not followed by another
OUT_S = 2.0
SHARE = 0.75  # of the time for windows; the rest is for starts and the restart of the server
WITHOUT, WITH, SLOW = "nobody", "watched", "slow"


@dataclass(frozen=True, slots=True)
class Window:
    """What was measured in a window. began, ended: seconds since the epoch. cpu: of the server, seconds."""

    name: str
    began: float
    ended: float
    cpu: float
    memory: int
    seen: Seen


class Bench:
    """A deployment with one server, and viewers in their own processes."""

    def __init__(self, options: argparse.Namespace, folder: Path, stack: ExitStack) -> None:
        self.options = options
        self._folder, self._port = folder, free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        redis = RedisProcess(folder, "--appendonly", "yes")
        stack.callback(redis.stop)
        engine = {"engine": options.engine} if options.engine else {}
        self.settings = Settings(redis_url=redis.url, home=folder, device="cpu", **engine)
        self.jobs = JobStore(connect(redis.url), self.settings)
        stack.callback(self.jobs.close)
        os.environ["OMP_NUM_THREADS"] = "1"
        workers = [Worker(self.settings, folder / f"worker-{number}.log") for number in range(options.workers)]
        for worker in workers:
            stack.callback(worker.stop, signal.SIGQUIT)
            worker.ready()
        self.start_server()
        stack.callback(lambda: processes.stop(self.server, signal.SIGTERM))
        self._pool = stack.enter_context(ProcessPoolExecutor(2, mp_context=get_context("spawn")))
        for ready in [self._pool.submit(time.sleep, 1.0) for _ in range(2)]:
            ready.result()

    def start_server(self) -> None:
        """Start the server, as a user does."""
        with (self._folder / "server.log").open("ab") as log:
            command = [sys.executable, "-m", "tasks.cli", "serve", "--port", str(self._port)]
            environ = environment(self.settings)
            self.server = processes.start(command, log=log, environ=environ, cwd=self._folder)
        wait_until(self._answers, what="the server")

    def _answers(self) -> bool:
        if self.server.poll() is not None:
            sys.exit(f"the server ended: {processes.last_lines(self._folder / 'server.log')}")
        try:
            return httpx2.get(f"{self.url}/health").status_code == 200
        except httpx2.TransportError:
            return False

    def submit(self, segments: int) -> list[Job]:
        """A job of so many segments for each worker."""
        width, height = map(int, self.options.size.split("x"))
        spec = {"title": "watched", "width": width, "height": height, "frames": self.options.frames, "overlap": 1}
        prompts = [{"prompt": "a yellow circle moves right over a blue background, low hum"}] * segments
        jobs = [
            submit(spec | {"seed": 1000 * number, "segments": prompts}, settings=self.settings)
            for number in range(self.options.workers)
        ]
        wait_until(lambda: all(job.status().clips for job in jobs), timeout_s=300, what="the first clips")
        return jobs

    def watched(self, jobs: Sequence[Job], seconds: float, **more: Any) -> Iterator[Seen]:
        """Have these jobs watched, by clients of events in one process and players in another."""
        ids: dict[str, str | None] = {job.id: None for job in jobs}
        if not more.get("to_end"):  # thousands of events that were before are no part of what is measured
            with connect(self.settings.redis_url) as client:
                reader = EventReader(client)
                ids = {job_id: reader.newest_id(job_id) for job_id in ids}
        counts = {"clients": self.options.clients, "players": 0}, {"clients": 0, "players": self.options.players}
        running = [
            self._pool.submit(watch, self.url, ids, seconds=seconds, **count, **(more if count["clients"] else {}))
            for count in counts
        ]
        return (one.result() for one in running)

    def window(self, name: str, jobs: Sequence[Job], seconds: float) -> Window:
        """Measure for so long."""
        server = psutil.Process(self.server.pid)
        stuck = self.options.clients // 10 if name == SLOW else 0
        settle = self.options.settle
        found = self.watched(jobs, settle + seconds, stuck=stuck) if name != WITHOUT else iter(())
        time.sleep(settle)
        began, cpu = time.time(), _seconds_of(server)
        time.sleep(seconds)
        ended, used, memory = time.time(), _seconds_of(server) - cpu, server.memory_info().rss
        seen = Seen()
        for one in found:
            seen.latencies += one.latencies
            seen.pieces += one.pieces
            seen.errors += one.errors
        return Window(name, began, ended, used, memory, seen)


def main() -> None:
    """Measure, and print a row for each kind of window."""
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="longtake-") as folder, ExitStack() as stack:
        bench = Bench(options, Path(folder), stack)
        jobs = bench.submit(LONG)
        names = [WITHOUT, WITH] * options.rounds + [SLOW]
        seconds = options.minutes * 60 * SHARE / len(names) - options.settle
        windows = [bench.window(name, jobs, max(1.0, seconds)) for name in names]
        times = [took for job in jobs for took in segment_times(bench.jobs, job.id)]
        for job in jobs:
            job.cancel()
        restart = restarted(bench)
    rows = [row_of(name, windows, times) for name in (WITHOUT, WITH, SLOW)]
    slowed = slowed_by(windows, times)
    print(slowed)
    print(restart)
    report.write("serve", rows, options.json, slowed=slowed, restart=restart)


def arguments() -> argparse.Namespace:
    parser = report.parser(str(__doc__), "serve")
    parser.add_argument("--clients", type=int, default=200, help="connections that read events")
    parser.add_argument("--players", type=int, default=50, help="players of HLS")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3, help="pairs of windows")
    parser.add_argument("--settle", type=float, default=5.0, help="seconds in which all viewers connect")
    parser.add_argument("--size", default="192x128")
    parser.add_argument("--frames", type=int, default=25)
    parser.add_argument("--engine", help="as LONGTAKE_ENGINE")
    return parser.parse_args()


def segment_times(jobs: JobStore, job_id: str) -> list[tuple[float, float]]:
    """Begin and end of each segment but the first, seconds since the epoch."""
    handoffs = jobs.handoffs(job_id)
    return [(one.engine_ended, after.engine_ended) for one, after in pairwise(handoffs)]


def within(window: Window, times: Sequence[tuple[float, float]]) -> list[float]:
    return [end - begin for begin, end in times if window.began <= begin and end <= window.ended]


def slowed_by(windows: Sequence[Window], times: Sequence[tuple[float, float]]) -> str:
    """By how much segments take longer when they are watched, with the standard error of that."""
    found = {
        name: [took for window in windows if window.name == name for took in within(window, times)]
        for name in (WITHOUT, WITH)
    }
    if min(map(len, found.values())) < 2:
        return "too few segments to compare: use more --minutes or a smaller --size"
    means = {name: statistics.mean(values) for name, values in found.items()}
    errors = {name: statistics.stdev(values) / len(values) ** 0.5 / means[name] for name, values in found.items()}
    ratio = means[WITH] / means[WITHOUT]
    error = ratio * (errors[WITHOUT] ** 2 + errors[WITH] ** 2) ** 0.5
    return f"a segment takes {100 * (ratio - 1):+.1f} % longer when it is watched; standard error {100 * error:.1f} %"


def row_of(name: str, windows: Sequence[Window], times: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """The figures of all windows of this kind."""
    mine = [window for window in windows if window.name == name]
    seconds = sum(window.ended - window.began for window in mine)
    took = [one for window in mine for one in within(window, times)]
    latencies, pieces = (
        [one for window in mine for one in getattr(window.seen, what)] for what in ("latencies", "pieces")
    )
    return {
        "viewers": name,
        "s per segment": statistics.mean(took) if took else None,
        "segments": len(took),
        "server's CPU %": 100 * sum(window.cpu for window in mine) / seconds,
        "server's MB": max(window.memory for window in mine) / 1e6,
        "events/s": len(latencies) / seconds,
        "event ms": _at(latencies, 0.5),
        "event ms, 99 %": _at(latencies, 0.99),
        "pieces/s": len(pieces) / seconds,
        "piece ms": _at(pieces, 0.5),
        "piece ms, 99 %": _at(pieces, 0.99),
        "errors": sum(window.seen.errors for window in mine),
    }


def _at(values: Sequence[float], share: float) -> float | None:
    """This quantile, in milliseconds."""
    return 1000 * sorted(values)[int(share * (len(values) - 1))] if values else None


def restarted(bench: Bench) -> str:
    """Kill the server and start it again while jobs render; returns what clients lost."""
    jobs = bench.submit(SHORT)
    found = bench.watched(jobs, 300, to_end=True)
    time.sleep(bench.options.settle)
    processes.stop(bench.server, signal.SIGKILL)
    time.sleep(OUT_S)
    bench.start_server()
    ids = next(found).ids
    with connect(bench.settings.redis_url) as client:
        reader = EventReader(client)
        kept = {job.id: [event.id_in_job for event in _all(reader, job.id)] for job in jobs}
    wrong = sum(seen != kept[job] for job, seen in ids)
    return f"{len(ids) - wrong} of {len(ids)} clients got every event once across a restart of the server"


def _all(reader: EventReader, job_id: str) -> Iterator[Any]:
    after = BEGINNING
    while page := reader.after(after, job_id=job_id, count=500):
        yield from page
        after = page[-1].id_in_job


def _seconds_of(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


if __name__ == "__main__":
    main()
