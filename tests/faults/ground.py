"""A deployment to break: two Redis servers, workers that stop where they are told, and what must hold afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, cast

import psutil
import redis

from blobstore import ManagedBlobStore, open_blob_store
from tasks.client.job import Job
from tasks.client.submit import submit
from tasks.embedded import processes
from tasks.jobs.connection import connect
from tasks.jobs.queues import QUEUES, STICKY_PREFIX
from tasks.jobs.records import START_INDEX
from tasks.jobs.store import JobStore
from tasks.settings import Settings
from tests.conftest import STAND_IN, RedisProcess, environment, wait_until
from tests.faults.worker import BROKEN, place
from tests.tasks.conftest import spec

LEASE_S = 1.0
SEGMENTS = 3
RENDERED_IN_VAIN = ("segment hydrated", "state rendered", "state stored", "segment rendered", "segment stored")


@dataclass(frozen=True, slots=True)
class Event:
    """A point that a worker reached; time in seconds since the epoch."""

    time: float
    pid: int
    point: str
    job_id: str
    index: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a fault has cost: denoise calls above the minimum, and seconds until somebody worked on the job again."""

    denoised_again: int
    recovery_s: float | None


class FaultWorker:
    """A worker process and its child."""

    def __init__(self, settings: Settings, folder: Path, name: str, *options: str, **variables: str) -> None:
        self.log = folder / f"{name}.log"
        self.leaving = False
        self._folder = folder
        self.process = self._start(settings, name, options, variables)

    def _start(
        self, settings: Settings, name: str, options: tuple[str, ...], variables: dict[str, str]
    ) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.faults.worker", "--name", f"{name}@test", "--loglevel", "WARNING"]
        environ = environment(settings) | {"FAULT_FOLDER": str(self._folder)} | variables
        with self.log.open("ab") as file:
            return processes.start([*command, *options], log=file, environ=environ, cwd=self._folder)

    @property
    def pids(self) -> list[int]:
        """The worker's own id, then its children's; none when it has ended."""
        with suppress(psutil.NoSuchProcess):
            return [self.process.pid, *(child.pid for child in psutil.Process(self.process.pid).children())]
        return []

    def send(self, number: int) -> None:
        """Send a signal to the worker and its children, those that are still there."""
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """End the worker and its children without a warning."""
        self.send(signal.SIGKILL)
        self.process.wait()

    def ready(self) -> FaultWorker:
        """Itself, once it takes work."""
        wait_until(lambda: self.reconciler or self.process.poll() is not None, what=f"worker: {self.text()}")
        assert self.is_alive, self.text()
        return self

    @property
    def reconciler(self) -> str:
        """The name of its reconciler, '' before it takes work."""
        path = self._folder / "ready" / str(self.process.pid)
        return path.read_text() if path.exists() else ""

    @property
    def is_alive(self) -> bool:
        """Whether its process is there."""
        return self.process.poll() is None

    def shut_down(self, number: int, *, everyone: bool = False) -> None:
        """Send a signal as an operator does, or with `everyone` as systemd does, and go on at once."""
        self.leaving = True
        if everyone:
            self.send(number)
        else:
            os.kill(self.process.pid, number)

    def says(self, text: str) -> None:
        """Return when it has logged this."""
        wait_until(lambda: text in self.text(), what=f"{text!r} in {self.text()}")

    def gone(self) -> None:
        """Return when its process has ended."""
        wait_until(lambda: not self.is_alive, what=f"the end of {self.log.stem}: {self.text()}")

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Shut the worker down."""
        processes.stop(self.process, number, timeout_s=30)

    def text(self) -> str:
        """What it has logged."""
        return self.log.read_text(errors="replace")


class Held:
    """A place where the first process to come by stops."""

    def __init__(self, folder: Path, point: str, index: int) -> None:
        self._plan = folder / "holds" / place(point, index)
        self._held = folder / "held" / place(point, index)
        self._held.unlink(missing_ok=True)
        self._plan.touch()

    def pid(self) -> int:
        """The process that stopped, once one has."""
        wait_until(lambda: self._held.exists() and self._held.read_text(), what=f"somebody at {self._held.name}")
        return int(self._held.read_text())

    def release(self) -> None:
        """Let it go on."""
        self._held.unlink(missing_ok=True)
        self._plan.unlink(missing_ok=True)


@dataclass
class Ground:
    """See the head of this module. `broken_at` is when the fault happened, seconds since the epoch."""

    folder: Path
    broker: RedisProcess
    blob_server: RedisProcess
    home: Path
    lease_s: float = LEASE_S
    workers: list[FaultWorker] = field(default_factory=list)
    outcomes: ClassVar[list[Outcome]] = []
    broken_at: float | None = None

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
        """One more worker; `variables` are added to its environment."""
        name = f"worker-{len(self.workers)}"
        self.workers.append(FaultWorker(self.settings, self.folder, name, *options, **variables))
        return self.workers[-1]

    def submit(self, segments: int = SEGMENTS) -> Job:
        """A job whose film is that of every other job with so many segments."""
        return self.submit_prompts(*map(str, range(segments)))

    def submit_prompts(self, *prompts: str) -> Job:
        """The same with these prompts: they steer the stand-in engine, and the film does not depend on them."""
        return submit(spec(*prompts), settings=self.settings)

    def hold(self, point: str, index: int) -> Held:
        """Stop the first process to reach `point` of segment `index`."""
        return Held(self.folder, point, index)

    def kill_at(self, point: str, index: int) -> Job:
        """A job, of which the process that came to `point` of segment `index` was killed there."""
        held = self.hold(point, index)
        job = self.submit()
        pid = held.pid()
        self.breaks()
        os.kill(pid, signal.SIGKILL)
        return job

    def breaks(self) -> None:
        """The fault happens now."""
        self.broken_at = time.time()

    def events(self, job: Job | None = None) -> list[Event]:
        """What workers have reached, in order."""
        path = self.folder / "events"
        lines = path.read_text().splitlines() if path.exists() else []
        split = [line.split("|") for line in lines]
        found = [Event(float(at), int(pid), point, job_id, int(index)) for at, pid, point, job_id, index in split]
        return [event for event in found if job is None or event.job_id == job.id]

    def count(self, job: Job, point: str) -> Counter[int]:
        """How often each segment of the job came to `point`."""
        return Counter(event.index for event in self.events(job) if event.point == point)

    def sources(self, job: Job) -> Counter[str]:
        """Where the segments of the job had their states from, as their tasks' results tell."""
        client = redis.Redis.from_url(self.settings.redis_url)
        found = [client.get(key) for key in client.scan_iter(f"celery-task-meta-{job.id}-segment-*")]
        results = [json.loads(cast("bytes", data))["result"] or {} for data in found]
        return Counter(result["state"] for result in results if "state" in result)

    def verify(
        self, job: Job, film: str, *, denoised_again: int = 0, commits_lost: int = 0, blobs_lost: bool = False
    ) -> Outcome:
        """The job is done, and all that was promised holds; at most `denoised_again` segments were rendered again.

        `commits_lost`: how often a broker forgot a commit that it had accepted. `blobs_lost`: the blob server lost all
        it had, so that a commit just then may name a blob that is gone; otherwise every blob is whole at its commit.
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
            fences = [handoff.fence for handoff in handoffs]
            assert fences == sorted(set(fences))
        assert blobs_lost or not [event for event in self.events(job) if event.point == BROKEN]
        again = self.count(job, "segment hydrated").total() - status.segments
        assert again <= denoised_again, f"{again} segments were denoised again, {denoised_again} at most were expected"
        outcome = Outcome(again, self._recovery(job))
        self.outcomes.append(outcome)
        self.broken_at = None
        return outcome

    def at_rest(self, *, killed: int = 0) -> None:
        """Nothing waits in any queue; what was delivered is acknowledged, but for one message per killed worker."""
        client = redis.Redis.from_url(self.settings.redis_url)
        queues = [*QUEUES, *(f"{STICKY_PREFIX}{worker.log.stem}@test" for worker in self.workers if worker.is_alive)]
        wait_until(lambda: not any(client.llen(queue) for queue in queues), what="empty queues")
        wait_until(lambda: client.hlen("unacked") <= killed, what="every message to be acknowledged")

    def leave(self) -> None:
        """Tell every worker to end; `stop` waits for them."""
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.send(signal.SIGCONT)
                worker.process.send_signal(signal.SIGQUIT)

    def stop(self) -> None:
        """End every worker."""
        self.leave()
        for worker in self.workers:
            worker.stop(signal.SIGQUIT)

    def _recovery(self, job: Job) -> float | None:
        if self.broken_at is None:
            return None
        after = (event.time for event in self.events(job) if event.time > self.broken_at)
        return next((moment - self.broken_at for moment in after), None)


def lost_with(point: str) -> int:
    """How many segments are rendered again at most when a process ends at this point: one, if it was at one.

    While it makes a clip it is at a later segment, too.
    """
    return int(point in RENDERED_IN_VAIN or point.startswith("clip "))


def places() -> list[tuple[str, int]]:
    """Every place that workers pass when a job of `SEGMENTS` segments is rendered undisturbed.

    In order, but for the clips: each is made while a later segment is rendered.
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
