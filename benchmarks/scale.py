"""What moving segments costs when rendering them costs nothing: many jobs, an engine that does nothing.

    python benchmarks/scale.py [--jobs 1000] [--segments 100] [--workers 2] [--minutes 20] [--json out/scale.json]

The reference is as many bare Celery tasks, each of which puts 5 kB into a Redis and publishes the next one; it neither
claims nor commits anything, loses work and does it twice. Both run on two servers and with workers of their own, with a
user's default settings, one after the other. All jobs wait in one queue, so that they go forward side by side: a tenth
of the run is a tenth of every job. Films are joined at the end, by a worker for films alone. Processor time is that of
the workers with their children, and of the servers; the figures are per segment, and `load` is the machine's, for
whoever else was at work. Each of the two runs is stopped after so many minutes, which the table then says.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import redis

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, it finds the packages beside it

from benchmarks import report
from tasks.client.submit import submit
from tasks.embedded import processes
from tasks.jobs.connection import connect
from tasks.jobs.keys import ACTIVE, job_keys
from tasks.jobs.queues import CLIPS, FILMS, SEGMENTS
from tasks.settings import Settings
from tests.conftest import RedisProcess, Worker, environment, wait_until

ENGINE = "benchmarks.nothing:NothingEngine"
TENTHS = 10


@dataclass(frozen=True, slots=True)
class Look:
    """What had been done and used at a moment; times in seconds, sizes in bytes."""

    at: float
    load: float
    done: int
    workers_cpu: float
    servers_cpu: float
    broker_bytes: int
    broker_calls: int
    broker_memory: int
    blobs_memory: int


def main() -> None:
    """Run both, and print a line for each and a line for each tenth of each."""
    parser = report.parser(str(__doc__), "scale")
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--segments", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=20.0)
    options = parser.parse_args()
    bare = run_bare(options)
    ours, films = run_ours(options)
    looks = {"bare Celery": bare, "longtake": ours}
    rows = [row_of(name, seen, options) for name, seen in looks.items()]
    tenths = [row for name, seen in looks.items() for row in tenths_of(name, seen)]
    print(report.table(tenths))
    if films:
        wall, used = films[-1].at - films[0].at, films[-1].workers_cpu - films[0].workers_cpu
        each, cpu = wall / options.jobs, used / options.jobs
        print(f"films of {options.segments} segments: {each:.3g} s each, {cpu:.3g} s of it processor time")
        looks["films"] = films
    kept = {name: [asdict(look) for look in seen] for name, seen in looks.items()}
    settings = {name: getattr(options, name) for name in ("jobs", "segments", "workers", "minutes")}
    report.write("scale", rows, options.json, tenths=tenths, looks=kept, **settings)


def run_bare(options: argparse.Namespace) -> list[Look]:
    """The reference."""
    from benchmarks import bare

    with servers() as (broker, blobs), tempfile.TemporaryDirectory(prefix="longtake-") as folder, ExitStack() as stack:
        variables = {bare.URL: broker.url, bare.BLOBS: blobs.url}
        client = redis.Redis(port=broker.port)
        bare.app.conf.update(broker_url=broker.url, result_backend=broker.url)
        for job in range(options.jobs):
            bare.segment.apply_async((f"job{job}", 0, options.segments, None))
        environ = environment(Settings(redis_url=broker.url)) | variables
        command = [sys.executable, "-m", "celery", "-A", "benchmarks.bare", "worker", "--loglevel", "WARNING"]
        started = []
        for number in range(options.workers):
            log = stack.enter_context((Path(folder) / f"worker-{number}.log").open("ab"))
            name = ["--hostname", f"bare-{number}@test"]
            started.append(processes.start([*command, *name], log=log, environ=environ, cwd=Path(folder)))
            stack.callback(processes.stop, started[-1], signal.SIGQUIT)
        watched = Watched(broker, blobs, [process.pid for process in started], lambda: int(client.get(bare.DONE) or 0))
        total = options.jobs * options.segments
        return watched.until(lambda look: look.done >= total, options.minutes)


def run_ours(options: argparse.Namespace) -> tuple[list[Look], list[Look] | None]:
    """longtake: its segments, then its films if there was time for all segments."""
    with servers() as (broker, blobs), tempfile.TemporaryDirectory(prefix="longtake-") as folder, ExitStack() as stack:
        settings = Settings(redis_url=broker.url, blob_url=blobs.url, home=Path(folder), engine=ENGINE)
        client = connect(settings.redis_url)
        spec = {"title": "nothing", "width": 32, "height": 32, "frames": 9, "overlap": 1}
        spec["segments"] = [{"prompt": "nothing"}] * options.segments
        ids = [submit(spec | {"seed": job * options.segments}, settings=settings).id for job in range(options.jobs)]

        def committed() -> int:
            with client.pipeline(transaction=False) as pipe:
                for job_id in ids:
                    pipe.hget(job_keys(job_id, "record")[0], "cursor")
                return sum(map(int, pipe.execute()))

        def start(name: str, *queues: str) -> int:
            only = [part for queue in queues for part in ("--only", queue)]
            worker = Worker(settings, Path(folder) / f"{name}.log", *only)
            stack.callback(worker.stop, signal.SIGQUIT)
            return worker.process.pid

        workers = [start(f"worker-{number}", SEGMENTS, CLIPS) for number in range(options.workers)]
        watched = Watched(broker, blobs, workers, committed)
        total = options.jobs * options.segments
        looks = watched.until(lambda look: look.done >= total, options.minutes)
        if looks[-1].done < total:
            return looks, None
        watched.also(start("films", FILMS))
        return looks, watched.until(lambda _: not client.exists(ACTIVE), options.minutes)


@contextmanager
def servers() -> Iterator[tuple[RedisProcess, RedisProcess]]:
    """A broker and a blob server, both appending to files, as a deployment's do."""
    with tempfile.TemporaryDirectory(prefix="longtake-") as name, ExitStack() as stack:
        started = []
        for role in ("broker", "blobs"):
            folder = Path(name) / role
            folder.mkdir()
            started.append(RedisProcess(folder, "--appendonly", "yes"))
            stack.callback(started[-1].stop)
        yield started[0], started[1]


class Watched:
    """Both servers and the workers of a run, looked at every few seconds."""

    def __init__(self, broker: RedisProcess, blobs: RedisProcess, pids: list[int], done: Callable[[], int]) -> None:
        self._broker, self._blobs = redis.Redis(port=broker.port), redis.Redis(port=blobs.port)
        self._servers = [psutil.Process(server.process.pid) for server in (broker, blobs)]
        self._workers = [psutil.Process(pid) for pid in pids]
        self._done = done

    def also(self, pid: int) -> None:
        """Look at one more worker."""
        self._workers.append(psutil.Process(pid))

    def until(self, is_over: Callable[[Look], bool], minutes: float) -> list[Look]:
        """What was seen from the first segments on, until it is over or the time is."""
        wait_until(self._done, timeout_s=300, what="the first segment")
        looks = [self._look()]
        while not is_over(looks[-1]) and looks[-1].at - looks[0].at < minutes * 60:
            time.sleep(max(0.5, (looks[-1].at - looks[0].at) / 100))  # counting is work, too
            looks.append(self._look())
        return looks

    def _look(self) -> Look:
        broker: dict[str, Any] = self._broker.info()
        family = [child for worker in self._workers for child in (worker, *worker.children(recursive=True))]
        return Look(
            at=time.monotonic(),
            load=os.getloadavg()[0],
            done=self._done(),
            workers_cpu=sum(map(seconds_of, family)),
            servers_cpu=sum(map(seconds_of, self._servers)),
            broker_bytes=broker["total_net_input_bytes"] + broker["total_net_output_bytes"],
            broker_calls=broker["total_commands_processed"],
            broker_memory=broker["used_memory"],
            blobs_memory=self._blobs.info("memory")["used_memory"],
        )


def seconds_of(process: psutil.Process) -> float:
    """Processor time that a process has had."""
    times = process.cpu_times()
    return times.user + times.system


def row_of(name: str, looks: list[Look], options: argparse.Namespace) -> dict[str, Any]:
    """What a run took as a whole."""
    last = looks[-1]
    if last.done == looks[0].done:
        sys.exit(f"{name} was over before it was looked at twice: ask for more --jobs or --segments")
    total = options.jobs * options.segments
    return {
        "run": name,
        "segments": last.done,
        "ended": "yes" if last.done >= total else f"stopped, {total - last.done} to go",
        "minutes": (last.at - looks[0].at) / 60,
        **figures(looks[0], last),
        "broker MB": looks[-1].broker_memory / 1e6,
        "blobs MB": looks[-1].blobs_memory / 1e6,
    }


def tenths_of(name: str, looks: list[Look]) -> list[dict[str, Any]]:
    """The same for each tenth of what was done."""
    done = looks[-1].done - looks[0].done
    bounds = [
        next(look for look in looks if look.done - looks[0].done >= done * tenth / TENTHS)
        for tenth in range(TENTHS + 1)
    ]
    return [
        {"run": name, "tenth": tenth, **figures(first, last)}
        for tenth, (first, last) in enumerate(pairwise(bounds), 1)
        if last.done > first.done
    ]


def figures(first: Look, last: Look) -> dict[str, Any]:
    """What a segment took between two looks."""
    done = last.done - first.done
    return {
        "load": last.load,
        "segments/s": done / (last.at - first.at),
        "workers' CPU ms": (last.workers_cpu - first.workers_cpu) / done * 1000,
        "servers' CPU ms": (last.servers_cpu - first.servers_cpu) / done * 1000,
        "broker commands": (last.broker_calls - first.broker_calls) / done,
        "broker bytes": (last.broker_bytes - first.broker_bytes) / done,
        "broker memory": (last.broker_memory - first.broker_memory) / done,
        "blobs memory": (last.blobs_memory - first.blobs_memory) / done,
    }


if __name__ == "__main__":
    main()
