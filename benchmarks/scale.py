"""The cost of moving segments: many jobs with an engine that does nothing.

    python benchmarks/scale.py [--jobs 1000] [--segments 100] [--workers 2] [--minutes 20] [--json out/scale.json]

The reference is the same number of bare Celery tasks, each of which puts 5 kB into Redis and publishes the next one. It
claims and commits nothing, so it can lose work or do it twice. The two run one after the other, each with two servers
and workers of its own, and with default settings. All jobs wait in one queue and advance together: a tenth of the run
is a tenth of every job. Films are joined at the end by a separate worker. Processor time is that of the workers with
their children, and of the servers. Figures are per segment; `load` is the load of the whole machine. Each run is
stopped after `--minutes`, and the table then says so.
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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it also runs as a file

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
class Sample:
    """Work done and resources used at one moment; times in seconds, sizes in bytes."""

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
    """Run both, and print a line for each run and each tenth of it."""
    parser = report.parser(str(__doc__), "scale")
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--segments", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=20.0)
    options = parser.parse_args()
    bare = run_bare(options)
    ours, films = run_ours(options)
    runs = {"bare Celery": bare, "longtake": ours}
    rows = [row_of(name, samples, options) for name, samples in runs.items()]
    tenths = [row for name, samples in runs.items() for row in tenths_of(name, samples)]
    print(report.table(tenths))
    if films:
        wall, used = films[-1].at - films[0].at, films[-1].workers_cpu - films[0].workers_cpu
        each, cpu = wall / options.jobs, used / options.jobs
        print(f"films of {options.segments} segments: {each:.3g} s each, of which {cpu:.3g} s are processor time")
        runs["films"] = films
    plain = {name: [asdict(sample) for sample in samples] for name, samples in runs.items()}
    settings = {name: getattr(options, name) for name in ("jobs", "segments", "workers", "minutes")}
    report.write("scale", rows, options.json, tenths=tenths, samples=plain, **settings)


def run_bare(options: argparse.Namespace) -> list[Sample]:
    """Run the reference."""
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
        monitor = Monitor(broker, blobs, [process.pid for process in started], lambda: int(client.get(bare.DONE) or 0))
        total = options.jobs * options.segments
        return monitor.until(lambda sample: sample.done >= total, options.minutes)


def run_ours(options: argparse.Namespace) -> tuple[list[Sample], list[Sample] | None]:
    """Run longtake: its segments, then its films if all segments were finished in time."""
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
        monitor = Monitor(broker, blobs, workers, committed)
        total = options.jobs * options.segments
        samples = monitor.until(lambda sample: sample.done >= total, options.minutes)
        if samples[-1].done < total:
            return samples, None
        monitor.add(start("films", FILMS))
        return samples, monitor.until(lambda _: not client.exists(ACTIVE), options.minutes)


@contextmanager
def servers() -> Iterator[tuple[RedisProcess, RedisProcess]]:
    """A broker and a blob server, both with append-only files, as in a deployment."""
    with tempfile.TemporaryDirectory(prefix="longtake-") as name, ExitStack() as stack:
        started = []
        for role in ("broker", "blobs"):
            folder = Path(name) / role
            folder.mkdir()
            started.append(RedisProcess(folder, "--appendonly", "yes"))
            stack.callback(started[-1].stop)
        yield started[0], started[1]


class Monitor:
    """Samples both servers and the workers of a run every few seconds."""

    def __init__(self, broker: RedisProcess, blobs: RedisProcess, pids: list[int], done: Callable[[], int]) -> None:
        self._broker, self._blobs = redis.Redis(port=broker.port), redis.Redis(port=blobs.port)
        self._servers = [psutil.Process(server.process.pid) for server in (broker, blobs)]
        self._workers = [psutil.Process(pid) for pid in pids]
        self._done = done

    def add(self, pid: int) -> None:
        """Add a worker."""
        self._workers.append(psutil.Process(pid))

    def until(self, is_over: Callable[[Sample], bool], minutes: float) -> list[Sample]:
        """The samples from the first segment on, until `is_over` or the time limit."""
        wait_until(self._done, timeout_s=300, what="the first segment")
        samples = [self._sample()]
        while not is_over(samples[-1]) and samples[-1].at - samples[0].at < minutes * 60:
            time.sleep(max(0.5, (samples[-1].at - samples[0].at) / 100))  # sampling costs time, too
            samples.append(self._sample())
        return samples

    def _sample(self) -> Sample:
        broker: dict[str, Any] = self._broker.info()
        family = [child for worker in self._workers for child in (worker, *worker.children(recursive=True))]
        return Sample(
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
    """Processor time that a process has used."""
    times = process.cpu_times()
    return times.user + times.system


def row_of(name: str, samples: list[Sample], options: argparse.Namespace) -> dict[str, Any]:
    """The figures of a whole run."""
    last = samples[-1]
    if last.done == samples[0].done:
        sys.exit(f"{name} ended before it was sampled twice: use more --jobs or --segments")
    total = options.jobs * options.segments
    return {
        "run": name,
        "segments": last.done,
        "ended": "yes" if last.done >= total else f"stopped, {total - last.done} left",
        "minutes": (last.at - samples[0].at) / 60,
        **figures(samples[0], last),
        "broker MB": last.broker_memory / 1e6,
        "blobs MB": last.blobs_memory / 1e6,
    }


def tenths_of(name: str, samples: list[Sample]) -> list[dict[str, Any]]:
    """The figures of each tenth of a run, by segments."""
    done = samples[-1].done - samples[0].done
    bounds = [
        next(sample for sample in samples if sample.done - samples[0].done >= done * tenth / TENTHS)
        for tenth in range(TENTHS + 1)
    ]
    return [
        {"run": name, "tenth": tenth, **figures(first, last)}
        for tenth, (first, last) in enumerate(pairwise(bounds), 1)
        if last.done > first.done
    ]


def figures(first: Sample, last: Sample) -> dict[str, Any]:
    """The figures per segment between two samples."""
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
