"""Fault test harness: two Redis servers, workers that can be held at failpoints, and checks of the result."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, cast

import psutil

from blobstore import ManagedBlobStore, open_blob_store
from tasks.client.job import Job
from tasks.client.submit import submit
from tasks.embedded import processes
from tasks.jobs.connection import connect
from tasks.jobs.queues import QUEUES, STICKY_PREFIX
from tasks.jobs.store import JobStore
from tasks.jobs.units import START_INDEX
from tasks.settings import Settings
from tests.conftest import STAND_IN, RedisProcess, environment, wait_until
from tests.faults.worker import INCOMPLETE_COMMIT, hold_name
from tests.forkserver import fork_server
from tests.tasks.conftest import spec

LEASE_S = 1.0
SEGMENTS = 3
# Failpoints at which a segment is rendered, at least in part, and not yet committed.
BEFORE_COMMIT = ("segment hydrated", "state rendered", "state stored", "segment rendered", "segment stored")
TAKE_FAILPOINTS = ("take stored", "take committed")
Failpoint = tuple[str, int]  # its name and the segment's index, -1 for the film


@dataclass(frozen=True, slots=True)
class Event:
    """A failpoint that a worker reached; time in seconds since the epoch."""

    time: float
    pid: int
    point: str
    job_id: str
    index: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """The cost of a fault: segments denoised again, and seconds until a worker worked on the job again."""

    denoised_again: int
    recovery_s: float | None


def is_stopped(pid: int) -> bool:
    """Whether every thread of a process is stopped by a signal."""
    try:
        states = {path.read_text().rpartition(") ")[2][0] for path in Path(f"/proc/{pid}/task").glob("*/stat")}
    except OSError:  # a thread has just ended
        return False
    return states == {"T"}


class FaultWorker:
    """A worker process and its child."""

    def __init__(self, settings: Settings, folder: Path, name: str, *options: str, **variables: str) -> None:
        self.log = folder / f"{name}.log"
        self.shutting_down = False
        self._folder = folder
        arguments = ("--name", f"{name}@test", "--loglevel", "WARNING", *options)
        environ = environment(settings) | {"FAULT_FOLDER": str(folder)} | variables
        with self.log.open("ab") as file:
            self.process = fork_server().start(
                "tests.faults.worker", *arguments, environ=environ, folder=folder, out=file, err=file
            )

    @property
    def pids(self) -> list[int]:
        """The main process' id, then its children's; empty once the worker has ended."""
        with suppress(psutil.NoSuchProcess):
            return [self.process.pid, *(child.pid for child in psutil.Process(self.process.pid).children())]
        return []

    def send(self, number: int) -> None:
        """Send a signal to the main process and its children, except those that have ended."""
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def freeze(self) -> None:
        """Stop the main process and its children, and wait until no thread of them runs.

        One thread takes the signal and stops the others; until it is scheduled, they go on.
        """
        self.send(signal.SIGSTOP)
        wait_until(lambda: all(map(is_stopped, self.pids)), what="every thread to stop")

    def kill(self) -> None:
        """Kill the main process and its children."""
        self.send(signal.SIGKILL)
        self.process.wait()

    def ready(self) -> FaultWorker:
        """Wait until it consumes messages; returns itself."""
        wait_until(lambda: self.reconciler or self.process.poll() is not None, what=f"worker: {self.text()}")
        assert self.is_alive, self.text()
        return self

    @property
    def reconciler(self) -> str:
        """The token of its reconciler; '' before it consumes messages, and when it shuts down."""
        path = self._folder / "ready" / str(self.process.pid)
        return path.read_text() if path.exists() else ""

    @property
    def is_alive(self) -> bool:
        """Whether its main process runs."""
        return self.process.poll() is None

    def shut_down(self, number: int, *, all_processes: bool = False) -> None:
        """Send a signal to the main process, or to all its processes as systemd does; does not wait."""
        self.shutting_down = True
        if all_processes:
            self.send(number)
        else:
            os.kill(self.process.pid, number)

    def wait_for_log(self, text: str) -> None:
        """Wait until it has logged `text`."""
        wait_until(lambda: text in self.text(), what=f"{text!r} in {self.text()}")

    def wait_exit(self) -> None:
        """Wait until its main process has ended."""
        wait_until(lambda: not self.is_alive, what=f"the end of {self.log.stem}: {self.text()}")

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Shut the worker down and wait."""
        processes.stop(self.process, number, timeout_s=60)

    def text(self) -> str:
        """Its log."""
        return self.log.read_text(errors="replace")


class Hold:
    """Holds the first process that reaches a failpoint."""

    def __init__(self, folder: Path, point: str, index: int) -> None:
        self._request = folder / "holds" / hold_name(point, index)
        self._held = folder / "held" / hold_name(point, index)
        self._held.unlink(missing_ok=True)
        self._request.touch()

    def wait(self) -> int:
        """Wait until a process is held; returns its id."""
        wait_until(lambda: self.is_reached, what=f"a process at {self._held.name}")
        return int(self._held.read_text())

    @property
    def is_reached(self) -> bool:
        """Whether a process is held."""
        return self._held.exists() and bool(self._held.read_text())

    def release(self) -> None:
        """Let the process continue, or cancel the hold."""
        self._held.unlink(missing_ok=True)
        self._request.unlink(missing_ok=True)


@dataclass
class Harness:
    """A deployment for fault tests. `fault_at`: time of the fault, in seconds since the epoch."""

    folder: Path
    broker: RedisProcess
    blob_server: RedisProcess
    home: Path
    lease_s: float = LEASE_S
    workers: list[FaultWorker] = field(default_factory=list)
    outcomes: ClassVar[list[Outcome]] = []
    fault_at: float | None = None

    def __post_init__(self) -> None:
        for name in ("holds", "held", "ready"):
            (self.folder / name).mkdir()
        self.settings = Settings(
            redis_url=self.broker.url,
            blob_url=self.blob_server.url,
            home=self.home,
            engine=STAND_IN,
            lease_s=self.lease_s,
            reconcile_s=0.25,
        )

    @property
    def jobs(self) -> JobStore:
        return JobStore(connect(self.settings.redis_url), self.settings)

    @property
    def blobs(self) -> ManagedBlobStore:
        return open_blob_store(self.settings.blobs)

    def start_worker(self, *options: str, **variables: str) -> FaultWorker:
        """Start another worker; `variables` are added to its environment."""
        name = f"worker-{len(self.workers)}"
        self.workers.append(FaultWorker(self.settings, self.folder, name, *options, **variables))
        return self.workers[-1]

    def submit(self, segments: int = SEGMENTS) -> Job:
        """Submit a job; jobs with the same number of segments have the same film."""
        return self.submit_prompts(*map(str, range(segments)))

    def submit_prompts(self, *prompts: str) -> Job:
        """Submit a job with prompts that steer the stand-in engine; the film does not depend on them."""
        return submit(spec(*prompts), settings=self.settings)

    def hold(self, point: str, index: int) -> Hold:
        """Hold the first process that reaches `point` of segment `index`."""
        return Hold(self.folder, point, index)

    def kill_at(self, point: str, index: int) -> Job:
        """Submit a job, and kill the process that reaches `point` of segment `index`."""
        hold = self.hold(point, index)
        job = self.submit()
        pid = hold.wait()
        self.mark_fault()
        os.kill(pid, signal.SIGKILL)
        return job

    def mark_fault(self) -> None:
        """Record that the fault happens now; recovery is measured from here."""
        self.fault_at = time.time()

    def events(self, job: Job | None = None) -> list[Event]:
        """The failpoints that workers reached, in order."""
        path = self.folder / "events"
        lines = path.read_text().splitlines() if path.exists() else []
        split = [line.split("|") for line in lines]
        found = [Event(float(at), int(pid), point, job_id, int(index)) for at, pid, point, job_id, index in split]
        return [event for event in found if job is None or event.job_id == job.id]

    def count(self, job: Job, point: str) -> Counter[int]:
        """How often each segment of the job reached `point`."""
        return Counter(event.index for event in self.events(job) if event.point == point)

    def state_sources(self, job: Job) -> Counter[str]:
        """Where the job's segments read their states from, according to the task results."""
        client = connect(self.settings.redis_url)
        found = [client.get(key) for key in client.scan_iter(f"celery-task-meta-{job.id}-segment-*")]
        results = [json.loads(cast("bytes", data))["result"] or {} for data in found]
        return Counter(result["state"] for result in results if "state" in result)

    def verify(
        self,
        job: Job,
        film: str,
        *,
        denoised_again: int = 0,
        commits_lost: int = 0,
        blobs_lost: bool = False,
        shared: int = 0,
        in_order: bool = True,
    ) -> Outcome:
        """Wait for the job and check every promise; at most `denoised_again` segments were rendered again.

        `shared`: how many segments a fork shares with another job. `in_order`: whether each segment follows the one
        before; parts of a film may be rendered in parallel.
        `commits_lost`: how many accepted commits the broker lost. `blobs_lost`: the blob server lost its data, so a
        commit at that moment may name a deleted blob; otherwise every blob is complete at its commit.
        """
        status = job.wait().status()
        assert status.film
        assert status.film.sha256 == film, "the film differs from that of an undisturbed run"
        handoffs, epochs = self.jobs.handoffs(job.id), status.epoch + 1 + commits_lost
        assert [handoff.index for handoff in handoffs] == list(range(status.segments))
        committed, clips = self.count(job, "segment committed"), self.count(job, "clip committed")
        assert max(committed.values()) <= epochs, f"a handoff was committed twice within an epoch: {committed}"
        assert max(clips.values()) <= epochs, f"a clip was committed twice within an epoch: {clips}"
        if not status.epoch:
            fences = [handoff.fence for handoff in handoffs[shared:]]
            assert sorted(fences) == sorted(set(fences))
            assert not in_order or fences == sorted(fences)
        incomplete = [event for event in self.events(job) if event.point == INCOMPLETE_COMMIT]
        assert blobs_lost or not incomplete, f"commits that name incomplete blobs: {incomplete}"
        again = self.count(job, "segment hydrated").total() - (status.segments - shared)
        assert again <= denoised_again, f"{again} segments were denoised again, at most {denoised_again} expected"
        outcome = Outcome(again, self._recovery(job))
        self.outcomes.append(outcome)
        self.fault_at = None
        return outcome

    def wait_idle(self, *, killed: int = 0) -> None:
        """Wait until all queues are empty and all messages acknowledged, except one per killed worker."""
        client = connect(self.settings.redis_url)
        wait_until(lambda: not any(map(client.llen, [*QUEUES, *self.sticky_queues()])), what="empty queues")
        wait_until(lambda: client.hlen("unacked") <= killed, what="every message to be acknowledged")

    def sticky_queues(self) -> list[str]:
        """The sticky queues of living workers that hold messages."""
        client = connect(self.settings.redis_url)
        names = [worker.log.stem for worker in self.workers if worker.is_alive]
        return [key.decode() for name in names for key in client.keys(f"{STICKY_PREFIX}{name}@test.*")]

    def shut_down(self) -> None:
        """Send SIGQUIT to every worker; `stop` also waits."""
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.send(signal.SIGCONT)
                worker.process.send_signal(signal.SIGQUIT)

    def stop(self) -> None:
        """Shut every worker down and wait."""
        self.shut_down()
        for worker in self.workers:
            worker.stop(signal.SIGQUIT)

    def _recovery(self, job: Job) -> float | None:
        if self.fault_at is None:
            return None
        after = (event.time for event in self.events(job) if event.time > self.fault_at)
        return next((moment - self.fault_at for moment in after), None)


def segments_lost_at(point: str) -> int:
    """How many segments are rendered again at most if a process ends at this failpoint.

    One, if a segment is in progress. At a clip's failpoint, a later segment can be in progress, too.
    """
    return int(point in BEFORE_COMMIT or point.startswith("clip "))


def failpoints() -> list[Failpoint]:
    """Every failpoint that an undisturbed job of `SEGMENTS` segments reaches.

    In order, except for the clips: each is encoded while a later segment is rendered.
    """
    found = []
    for index in range(SEGMENTS):
        found += [(f"segment {step}", index) for step in ("claimed", "hydrated")]
        found += [(f"state {step}", index) for step in ("rendered", "stored")]
        found += [(f"segment {step}", index) for step in ("rendered", "stored", "committed")]
        if index + 1 < SEGMENTS:
            found += [(f"message {step}", index + 1) for step in ("announced", "sent", "chained")]
        found += [(f"clip {step}", index) for step in ("encoded", "stored", "committed")]
    found += [(f"message {step}", START_INDEX) for step in ("announced", "sent")]
    return found + [(f"film {step}", START_INDEX) for step in ("claimed", "joined", "stored", "committed")]
