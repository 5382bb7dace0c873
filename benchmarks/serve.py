"""What watching costs: many clients of one `longtake serve` while workers render.

    python benchmarks/serve.py [--clients 200] [--players 50] [--workers 2] [--minutes 5] [--json out/serve.json]
    taskset -c 16-31 python benchmarks/serve.py    # on these cores alone, with all processes that it starts

Each worker renders a long job with the small model on the CPU, one thread each. Half of the clients read the events of
each, and half of the players play it as HLS, from processes of their own. Windows without and with them alternate, and
`slowdown.py` says how they are compared; the windows without them are compared with each other as well, which shows how
much of a difference the machine makes by itself. A segment's time is that from the end of the one before to its own
end, engine and handoff, and counts in the window that has all of it. `slow` adds clients that read nothing, and clients
that vanish again and again. At the end the server is killed and started again while shorter jobs render, and each
client's events are compared with those in Redis.

The program starts all processes, and ends them within --minutes, or with an error at --limit. It writes the file of
figures after each window, so that one that is cut off leaves what it has measured.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import httpx2
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it also runs as a file

from benchmarks import report
from benchmarks.slowdown import Slowdown, against_neighbours
from benchmarks.viewers import Seen, watch
from tasks.client.job import Job
from tasks.client.submit import submit
from tasks.embedded import processes
from tasks.jobs.connection import connect
from tasks.jobs.events import BEGINNING, EventReader
from tasks.jobs.store import JobStore
from tasks.settings import Settings
from tests.conftest import RedisProcess, Worker, environment, free_port, wait_until

LONG = 2000  # segments, more than are rendered in the time; a job that ends is not followed by another
SHORT = range(4, 21)  # segments of the jobs in the last part, as many as there is time for
OUT_S = 2.0
LAST_SHARE = 0.2  # of the time, for the restart of the server and the end
LATE_S = 20.0
LIMIT = 0.02  # the most by which a worker may be slowed
WITHOUT, WITH, SLOW = "nobody", "watched", "slow"


@dataclass(frozen=True, slots=True)
class Window:
    """What was measured in a window. began, ended: seconds since the epoch. cpu: of the server, seconds."""

    name: str
    began: float
    ended: float
    cpu: float
    memory: int
    cores: float
    """The share of time in which the cores were busy, whoever used them."""
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
            stack.callback(worker.end)
            worker.ready()
        self.start_server()
        stack.callback(lambda: processes.stop(self.server, signal.SIGTERM))
        self._pool = stack.enter_context(ProcessPoolExecutor(2, mp_context=get_context("spawn")))
        for pid in {one.result() for one in [self._pool.submit(_pid) for _ in range(2)]}:
            stack.callback(_kill, pid)  # the pool waits for what they do

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

    def times(self, jobs: Sequence[Job]) -> dict[str, list[tuple[float, float]]]:
        """Begin and end of each segment but the first, seconds since the epoch, by job."""
        return {
            job.id: [(one.engine_ended, after.engine_ended) for one, after in pairwise(self.jobs.handoffs(job.id))]
            for job in jobs
        }

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
        began, cpu, idle = time.time(), _seconds_of(server), _idle_seconds()
        time.sleep(seconds)
        ended, used, memory = time.time(), _seconds_of(server) - cpu, server.memory_info().rss
        busy = 1 - (_idle_seconds() - idle) / (ended - began) / len(os.sched_getaffinity(0))
        seen = Seen()
        for one in found:
            seen.latencies += one.latencies
            seen.pieces += one.pieces
            seen.errors += one.errors
        return Window(name, began, ended, used, memory, busy, seen)


class Results:
    """What was measured so far, and the file that has it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._path: Path = options.json
        self._windows: list[Window] = []
        self._times: Mapping[str, Sequence[tuple[float, float]]] = {}
        self._more: dict[str, Any] = {"complete": False}

    def add(self, window: Window, times: Mapping[str, Sequence[tuple[float, float]]]) -> str:
        """Add a window, with the times of all segments so far, and save; returns a line about it."""
        self._windows.append(window)
        self._times = times
        self._save()
        took = self._in(window)
        each = f"{statistics.median(took):.3f} s a segment" if took else "no segment"
        return f"{window.name}: {each}, {len(took)} segments, cores {window.cores:.0%} busy"

    def end(self, restart: str) -> None:
        """Add what became of the clients when the server was started again."""
        self._more |= {"complete": True, "restart": restart}
        self._save()

    def show(self) -> None:
        """Print all that there is."""
        if not self._windows:
            print("nothing was measured")
            return
        for line in self._more["slowed"]:
            print(line)
        print(self._more.get("restart", "CUT OFF before its end"))
        report.write("serve", self._rows(), self._path, **self._more)

    def segment_s(self) -> float:
        """The median of all segments in windows; a second if there are none."""
        return statistics.median([one for window in self._windows for one in self._in(window)] or [1.0])

    def _save(self) -> None:
        self._more["slowed"] = list(self._slowed())
        self._more["windows"] = [
            {"viewers": window.name, "seconds": window.ended - window.began, "cores busy": window.cores}
            | {f"worker {number}": values for number, values in enumerate(self._by_worker(window))}
            for window in self._windows
        ]
        report.save("serve", self._rows(), self._path, **self._more)

    def _slowed(self) -> Iterator[str]:
        """By how much segments take longer when they are watched, of each worker and of all."""
        for number in range(len(self._times)):
            mine = [(window.name, self._by_worker(window)[number]) for window in self._windows]
            found = Slowdown.of(against_neighbours(mine, WITH, WITHOUT))
            yield f"worker {number} is slowed by {_said(found)}"
        all_of_them = [(window.name, self._in(window)) for window in self._windows]
        for name in (WITH, SLOW):
            found = Slowdown.of(against_neighbours(all_of_them, name, WITHOUT))
            yield f"{name}, all workers: slowed by {_said(found)}"
        noise = Slowdown.of(against_neighbours([one for one in all_of_them if one[0] == WITHOUT], WITHOUT, WITHOUT))
        yield f"with nobody, windows differ from those next to them by {noise or 'an unknown share'}"

    def _by_worker(self, window: Window) -> list[list[float]]:
        return [within(window, times) for times in self._times.values()]

    def _in(self, window: Window) -> list[float]:
        return [one for took in self._by_worker(window) for one in took]

    def _rows(self) -> list[dict[str, Any]]:
        names = dict.fromkeys(window.name for window in self._windows)
        return [self._row([window for window in self._windows if window.name == name]) for name in names]

    def _row(self, windows: Sequence[Window]) -> dict[str, Any]:
        """The figures of windows of one kind."""
        seconds = sum(window.ended - window.began for window in windows)
        took = [one for window in windows for one in self._in(window)]
        latencies, pieces = (
            [one for window in windows for one in getattr(window.seen, what)] for what in ("latencies", "pieces")
        )
        return {
            "viewers": windows[0].name,
            "s per segment": statistics.median(took) if took else None,
            "segments": len(took),
            "cores busy %": 100 * statistics.mean(window.cores for window in windows),
            "server's CPU %": 100 * sum(window.cpu for window in windows) / seconds,
            "server's MB": max(window.memory for window in windows) / 1e6,
            "events/s": len(latencies) / seconds,
            "event ms": _at(latencies, 0.5),
            "event ms, 99 %": _at(latencies, 0.99),
            "pieces/s": len(pieces) / seconds,
            "piece ms": _at(pieces, 0.5),
            "piece ms, 99 %": _at(pieces, 0.99),
            "errors": sum(window.seen.errors for window in windows),
        }


def main() -> None:
    """Measure, and print a row for each kind of window."""
    options = arguments()
    began, whole = time.monotonic(), options.minutes * 60
    names = [WITHOUT, *[WITH, WITHOUT] * options.rounds, SLOW, WITHOUT]
    say = _Clock(began)
    limit = options.limit or whole + LATE_S
    say(f"takes {whole:.0f} s, at most {limit:.0f}, on {len(os.sched_getaffinity(0))} cores")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(number, _cut)
    signal.setitimer(signal.ITIMER_REAL, limit)
    results = Results(options)
    try:
        with tempfile.TemporaryDirectory(prefix="longtake-") as folder, ExitStack() as stack:
            bench = Bench(options, Path(folder), stack)
            jobs = bench.submit(LONG)
            for left, name in zip(range(len(names), 0, -1), names, strict=True):
                until = began + whole * (1 - LAST_SHARE)
                seconds = (until - time.monotonic()) / left - options.settle
                window = bench.window(name, jobs, max(1.0, seconds))
                say(results.add(window, bench.times(jobs)))
            for job in jobs:
                job.cancel()
            say("killing the server, and starting it again")
            fitting = int(whole * LAST_SHARE / 2 / results.segment_s())
            results.end(restarted(bench, min(max(fitting, SHORT.start), SHORT.stop - 1)))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        results.show()
        say("ended")


class _Clock:
    """Prints lines, with the seconds since the start."""

    def __init__(self, began: float) -> None:
        self._began = began

    def __call__(self, line: str) -> None:
        print(f"{time.monotonic() - self._began:5.0f} s  {line}", flush=True)


def _cut(number: int, frame: object) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0)
    sys.exit("too slow: it was cut off" if number == signal.SIGALRM else f"ended by {signal.Signals(number).name}")


def arguments() -> argparse.Namespace:
    parser = report.parser(str(__doc__), "serve")
    parser.add_argument("--clients", type=int, default=200, help="connections that read events")
    parser.add_argument("--players", type=int, default=50, help="players of HLS")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--limit", type=float, help=f"seconds; default: --minutes and {LATE_S:.0f} s")
    parser.add_argument(
        "--rounds", type=int, default=6, help="windows with viewers; each has one without before and after it"
    )
    parser.add_argument("--settle", type=float, default=3.0, help="seconds in which all viewers connect")
    parser.add_argument("--size", default="192x128")
    parser.add_argument("--frames", type=int, default=25)
    parser.add_argument("--engine", help="as LONGTAKE_ENGINE")
    return parser.parse_args()


def within(window: Window, times: Sequence[tuple[float, float]]) -> list[float]:
    return [end - begin for begin, end in times if window.began <= begin and end <= window.ended]


def _said(found: Slowdown | None) -> str:
    return "an unknown share: too few segments" if found is None else f"{found}: {found.verdict(LIMIT)}"


def _at(values: Sequence[float], share: float) -> float | None:
    """This quantile, in milliseconds."""
    return 1000 * sorted(values)[int(share * (len(values) - 1))] if values else None


def restarted(bench: Bench, segments: int) -> str:
    """Kill the server and start it again while jobs render; returns what clients lost."""
    jobs = bench.submit(segments)
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


def _pid() -> int:
    """The id of a process of the pool, which the other one does not have."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the program itself ends it
    time.sleep(1.0)
    return os.getpid()


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _idle_seconds() -> float:
    """Of all cores on which this may run together, since the machine was started."""
    cores = os.sched_getaffinity(0)
    return sum(times.idle for core, times in enumerate(psutil.cpu_times(percpu=True)) if core in cores)


def _seconds_of(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


if __name__ == "__main__":
    main()
