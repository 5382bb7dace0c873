"""The time between two segments of a chain with real Redis and a worker, compared with bare engine calls.

    python -m benchmarks.handoff [--segments 20] [--size 768x512] [--frames 121] [--engine module:Class] [--model MODEL]
                                 [--busy]

The reference is a bare loop: the same segments, each with the state of the previous one, without Redis, worker and
clips. The worker's process runs it with the same loaded engine, while the worker has nothing else to do. Wall time is
from the start of the first engine call to the end of the last. A short run before each warms it up. The default engine
sleeps as long as LTX-2.3 takes on an H200, and returns arrays of real size; `--scale` shortens its sleep, which makes
the chain look worse than it is. With `--busy`, both are done again while other processes keep all cores busy. Each run
is printed when it has ended. The program starts the worker and both servers.

Of each run it says how long the sound took, from the end of the pictures, on the GPU, and how long after its end the
engine's call ended. An engine tells that by `sound`: when that of its last segment began and ended, in seconds since
the epoch.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import report
from benchmarks.sleeping import SCALE
from ltx2.request import SegmentRequest
from ltx2.timeline import first_timing, next_timing
from tasks.client.job import Job
from tasks.client.submit import submit
from tasks.embedded import processes
from tasks.embedded.render import watch_with
from tasks.jobs.connection import connect
from tasks.settings import Settings
from tasks.spec.loader import check_spec
from tasks.spec.schema import JobSpec
from tests.conftest import RedisProcess, environment

WARM_UP = 2  # segments: a first one and a continuation, which have two shapes
EVENTS, BARE = "HANDOFF_EVENTS", "HANDOFF_BARE"  # files that the worker writes
LOG = "worker.log"
SOUND = ("sound began", "sound ended")
# Each part, with the failpoint at which it ends. While the engine decodes the sound:
DURING_SOUND = {"encode the tail": "tail encoded", "put": "state stored"}
# From the end of a segment's engine call to the start of the next one:
PARTS = {
    "pin": "segment stored",
    "commit": "segment committed",
    "publish": "message chained",
    "acknowledge and deliver": "segment claimed",
    "hydrate": "segment hydrated",
}


class Load(StrEnum):
    """What else the machine does. busy: a process per core that computes."""

    QUIET = "quiet"
    BUSY = "busy"


def main() -> None:
    """Run both, and print the results."""
    options = parse()
    if options.role == "worker":
        work(options)
        return
    print(f"{options.segments} segments of {options.size}, {options.frames} frames, engine {options.engine}")
    if options.scale != 1:
        print(f"the engine sleeps {options.scale:g} times as long as the real one takes: only the gaps are meaningful")
    with tempfile.TemporaryDirectory(prefix="longtake-") as folder:
        measure(options, Path(folder))


def parse() -> argparse.Namespace:
    """Parse the command line. The role `worker` is for a child process of this program."""
    parser = report.parser(str(__doc__), "handoff")
    parser.add_argument("role", nargs="?", default="", help=argparse.SUPPRESS)
    parser.add_argument("--segments", type=int, default=20)
    parser.add_argument("--size", default="768x512")
    parser.add_argument("--frames", type=int, default=121)
    parser.add_argument("--engine", default="benchmarks.sleeping:SleepingEngine", metavar="MODULE:CLASS")
    parser.add_argument("--model", default="tiny", help="model that the engine loads")
    parser.add_argument("--scale", type=float, default=1.0, help="factor for the sleep of the sleeping engine")
    parser.add_argument("--busy", action="store_true", help="again with all cores busy with other processes")
    return parser.parse_args()


def loads(options: argparse.Namespace) -> list[Load]:
    """With which other work on the machine to measure."""
    return [*Load] if options.busy else [Load.QUIET]


@contextmanager
def other_work(load: Load) -> Iterator[None]:
    """Processes of a busy machine, which compute until the end of the block, or of this process."""
    count = len(os.sched_getaffinity(0)) if load is Load.BUSY else 0
    work = f"import os\nwhile os.getppid() == {os.getpid()}: sum(range(10**6))"
    started = [subprocess.Popen([sys.executable, "-S", "-c", work]) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def spec_of(options: argparse.Namespace, segments: int) -> JobSpec:
    """A job with `segments` segments."""
    width, height = map(int, options.size.split("x"))
    shape = {"width": width, "height": height, "frames": options.frames, "model": options.model}
    return check_spec({**shape, "segments": [{"prompt": f"waves on a beach, part {i}"} for i in range(segments)]})


# The reference


class BareLoops:
    """A listener that runs the bare loops in the worker's process, within the last segment of its first job."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._done = False

    def __call__(self, point: str, job_id: str, index: int) -> None:
        if self._done or (point, index) != ("segment hydrated", WARM_UP - 1):
            return
        self._done = True
        engine = engine_of_worker()
        loop(engine, spec_of(self._options, WARM_UP))
        for load in loads(self._options):
            with other_work(load):
                calls, sounds = loop(engine, spec_of(self._options, self._options.segments))
            with Path(os.environ[BARE]).open("a") as file:
                file.write(json.dumps({"load": load, "calls": calls, "sounds": sounds}) + "\n")


def engine_of_worker() -> Any:
    """The engine that this process has loaded."""
    from tasks.worker.context import process

    return process.context.engines._engine


def loop(engine: Any, spec: JobSpec) -> tuple[list[list[float]], list[list[float]]]:
    """Render all segments in order, each with the state of the previous one.

    Returns start and end, in seconds, of each engine call and of each sound, if the engine tells that.
    """
    calls, sounds, state, timing = [], [], None, first_timing(spec.shape)
    for index, segment in enumerate(spec.segments):
        request = SegmentRequest(segment.prompt, spec.seed_of(index, segment), spec.width, spec.height, timing)
        following = spec.segments[index + 1].prompt if index + 1 < len(spec.segments) else None
        before = time.time()
        state = engine.run(request, state, next_prompt=following).state
        calls.append([before, time.time()])
        if hasattr(engine, "sound"):
            sounds.append([*engine.sound])
        timing = next_timing(timing, cut=False)
    return calls, sounds


# The chain


def measure(options: argparse.Namespace, folder: Path) -> None:
    """Run both with each load; print what was measured when it is there, and write all of it to a file."""
    rows, gaps, more, bare = list[dict[str, Any]](), list[dict[str, Any]](), dict[str, Any](), dict[str, float]()

    def show_bare() -> None:
        for line in (folder / BARE).read_text().splitlines()[len(bare) :] if (folder / BARE).exists() else ():
            run = json.loads(line)
            rows.append(row(f"bare loop, {run['load']}", run["calls"], run["sounds"]))
            bare[run["load"]] = rows[-1]["wall s"]
            say(rows[-1:])

    with deployment(options, folder) as (settings, worker):

        def rendered(segments: int, meanwhile: Callable[[], None] = lambda: None) -> Job:
            job = submit(spec_of(options, segments).model_dump(), settings=settings)
            for _ in watch_with(job, worker, folder / LOG):
                meanwhile()
            job.wait()
            meanwhile()
            return job

        rendered(WARM_UP, show_bare)
        for load in loads(options):
            with other_work(load):
                job = rendered(options.segments)
            points = points_of(job, folder / EVENTS)
            calls = list(zip(points["segment hydrated"], points["segment rendered"], strict=True))
            rows.append(row(f"chain, {load}", calls, list(zip(*(points.get(name, []) for name in SOUND), strict=True))))
            say(rows[-1:])
            say([{"load": load} | part for part in parts(points)])
            gaps += [{"load": load} | part for part in parts(points)]
            clips = [
                made - rendered
                for made, rendered in zip(points["clip committed"], points["segment rendered"], strict=True)
            ]
            found = {"ratio": rows[-1]["wall s"] / bare[load], "sources": sources_of(settings, job), "clip_s": clips}
            print(f"{load}: wall time of the chain / bare loop: {found['ratio']:.4f}; states: {found['sources']}")
            print(f"{load}: a clip is stored {statistics.median(clips):.2f} s after its frames", flush=True)
            more[load] = found
    shown = {name: getattr(options, name) for name in ("segments", "size", "frames", "engine", "scale", "busy")}
    print(report.table(rows))
    report.write("handoff", gaps, options.json, options=shown, runs=rows, **more)


def say(rows: list[dict[str, Any]]) -> None:
    """Print rows at once: this program may be cut off."""
    print(report.table(rows), flush=True)


def arguments(options: argparse.Namespace) -> list[str]:
    """The options as arguments for a child process."""
    names = ("segments", "size", "frames", "engine", "model", "scale")
    return [f"--{name}={getattr(options, name)}" for name in names] + (["--busy"] if options.busy else [])


@contextmanager
def deployment(options: argparse.Namespace, folder: Path) -> Iterator[tuple[Settings, subprocess.Popen[bytes]]]:
    """Two servers and a worker that records the points that it reaches."""
    servers = []
    for role in ("broker", "blobs"):
        (folder / role).mkdir()
        servers.append(RedisProcess(folder / role, "--appendonly", "yes"))
    given = Settings.from_env().model_copy(update={"model": options.model, "engine": options.engine})
    settings = given.model_copy(update={"redis_url": servers[0].url, "blob_url": servers[1].url})
    files = {name: str(folder / name) for name in (EVENTS, BARE)}
    environ = environment(settings) | files | {SCALE: str(options.scale)}
    command = [sys.executable, "-m", "benchmarks.handoff", "worker", *arguments(options)]
    with (folder / LOG).open("ab") as log:
        worker = processes.start(command, log=log, environ=environ, cwd=folder)
    try:
        yield settings, worker
    finally:
        processes.stop(worker, signal.SIGTERM, timeout_s=60)
        for server in servers:
            server.stop()


def work(options: argparse.Namespace) -> None:
    """Run the worker."""
    import tasks.worker.lifecycle  # noqa: F401 - its receivers must exist before Celery starts
    from ltx2.state import continuation
    from tasks.cli import main as longtake
    from tasks.jobs import failpoints as points

    encode = continuation.encode_frames

    def encode_and_note(*args: Any, **kwargs: Any) -> Any:
        pngs = encode(*args, **kwargs)
        note("tail encoded", "", -1)
        return pngs

    continuation.encode_frames = encode_and_note
    points.listeners.add(BareLoops(options))
    points.listeners.add(note)
    longtake(["worker", "--loglevel", "WARNING"])


def note(point: str, job_id: str, index: int) -> None:
    """Record that a point was reached, and when."""
    reached = {point: time.time()}
    if point == "segment rendered" and hasattr(engine := engine_of_worker(), "sound"):
        reached |= dict(zip(SOUND, engine.sound, strict=True))
    with Path(os.environ[EVENTS]).open("a") as file:
        file.writelines(f"{at}|{name}|{job_id}|{index}\n" for name, at in reached.items())


def points_of(job: Job, events: Path) -> dict[str, list[float]]:
    """When the job's segments reached each point, in order of their indices."""
    found: dict[str, dict[int, float]] = {}
    rendered = -1
    for line in events.read_text().splitlines():
        at, point, job_id, number = line.split("|")
        rendered = int(number) if point in ("state rendered", "segment rendered") and job_id == job.id else rendered
        if job_id == job.id or (not job_id and rendered >= 0):
            found.setdefault(point, {})[int(number) if job_id else rendered] = float(at)
    return {point: [times[i] for i in sorted(times) if i >= 0] for point, times in found.items()}


def sources_of(settings: Settings, job: Job) -> dict[str, int]:
    """How many segments read their state from each source."""
    client, found = connect(settings.redis_url), dict[str, int]()
    for key in client.scan_iter(f"celery-task-meta-{job.id}-segment-*"):
        source = json.loads(client.get(key))["result"].get("state", "skipped")  # type: ignore[arg-type]
        found[source] = found.get(source, 0) + 1
    return found


# The results


def row(name: str, calls: list[Any], sounds: list[Any]) -> dict[str, Any]:
    """The row of one run: its wall time, and how much of it was spent in the engine, and there on the sound."""
    wall = calls[-1][1] - calls[0][0]
    inside = [end - start for start, end in calls]
    sound = [1000 * (end - begin) for begin, end in sounds]
    after = [1000 * (call[1] - end) for call, (_, end) in zip(calls, sounds, strict=False)]
    return {
        "run": name,
        "wall s": round(wall, 3),
        "engine call s (median)": round(statistics.median(inside), 4),
        "engine busy %": round(100 * sum(inside) / wall, 2),
        "sound ms (median)": statistics.median(sound) if sound else None,
        "sound ms (worst)": max(sound) if sound else None,
        "call ends after it, ms (median)": statistics.median(after) if after else None,
    }


def parts(points: dict[str, list[float]]) -> list[dict[str, Any]]:
    """The parts of the gap between two engine calls, and the parts during the sound, in milliseconds."""
    begun, ended = SOUND
    during, gap = [], _between(points, "segment rendered", PARTS)
    if begun in points:
        during += _between(points, begun, {"frames in main memory": "state rendered"})
    if "state stored" in points:
        during += _between(points, "state rendered", DURING_SOUND)
    if ended in points:
        during += _between(points, ended, {"stored after the sound's end": "state stored"})
        during += _between(points, ended, {"call ends after the sound's end": "segment rendered"})
    gap += _between(points, "segment rendered", {"in all": PARTS["hydrate"]})
    return [row | {"when": "during the sound"} for row in during] + [row | {"when": "the gap"} for row in gap]


def _between(points: dict[str, list[float]], start: str, named: dict[str, str]) -> list[dict[str, Any]]:
    """The time from `start` to the first of the named points, and from each of them to the next."""
    of_the_next = {"segment claimed", "segment hydrated"}
    before, rows = points[start], []
    for name, point in named.items():
        times = points[point][1:] if point in of_the_next else points[point]
        took = [1000 * (end - begun) for begun, end in zip(before, times, strict=False)]
        rows.append({"part": name, "median ms": statistics.median(took), "worst ms": max(took)})
        before = times
    return rows


if __name__ == "__main__":
    main()
