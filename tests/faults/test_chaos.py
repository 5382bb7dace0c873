"""A seeded random run: several workers and jobs, and a fault every second or two.

CHAOS_SEED sets the seed (default: random, printed). CHAOS_MINUTES sets the length of the run (default: 2).
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import redis

from blobstore import BlobStoreError
from tasks.client.submit import submit
from tasks.client.takes import TakeState
from tasks.errors import LongtakeError
from tasks.jobs.state_wire import handoff_blobs
from tests.conftest import RedisProcess, wait_until
from tests.faults.blob_faults import KINDS, damage
from tests.faults.conftest import MakeHarness, film_of
from tests.faults.harness import FaultWorker, Harness
from tests.faults.steering import Steered, Way, spec_with_parts

SEED = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(10**6))
MINUTES = float(os.environ.get("CHAOS_MINUTES", "2"))
WORKERS, JOBS, LENGTHS = 2, 4, (3, 5, 8)
SLOW = {"STAND_IN_STEP_S": "0.05", "LONGTAKE_MAX_ATTEMPTS": "100"}


class Chaos:
    """Injects random faults into a harness, one at a time."""

    def __init__(self, harness: Harness, random: random.Random) -> None:
        self.faults: Counter[str] = Counter()
        self._harness = harness
        self._random = random
        self._workers = [harness.start_worker(**SLOW) for _ in range(WORKERS)]
        self._faults: dict[str, Callable[[], None]] = {
            "kill a child": lambda: self._signal_child(signal.SIGKILL),
            "kill a worker": lambda: self._replace(FaultWorker.kill),
            "SIGTERM to a worker": lambda: self._replace(FaultWorker.stop),
            "SIGQUIT to a worker": lambda: self._replace(lambda worker: worker.stop(signal.SIGQUIT)),
            "stop a worker past its lease": self._freeze,
            "close every connection": self._close_connections,
            "damage a blob": self._damage,
            "restart the broker": lambda: self._restart(harness.broker),
            "restart the blob server": lambda: self._restart(harness.blob_server),
        }

    def inject(self) -> None:
        """Inject one random fault."""
        name = self._random.choice(sorted(self._faults))
        self.faults[name] += 1
        self._faults[name]()
        self.restart_workers()

    def restart_workers(self) -> None:
        """Replace workers that exited without a fault of ours, as a supervisor does."""
        for index, worker in enumerate(self._workers):
            if worker.process.poll() is not None:
                self.faults["(a worker ended by itself)"] += 1
                self._workers[index] = self._harness.start_worker(**SLOW)

    def edit(self, one: Steered) -> None:
        """Ask for a take of the last segment of a job, or of the last two, or choose one; keep the job, or no longer.

        Servers may be out, and it may not be there.
        """
        job, last = one.job, one.length - 1
        with suppress(LongtakeError, BlobStoreError, redis.RedisError):
            rendered = [(take.segment, take.take) for take in job.takes() if take.state == TakeState.RENDERED]
            if self._random.random() < 0.1:
                self._random.choice((job.keep, job.unkeep))()
            elif rendered and self._random.random() < 0.7:
                job.choose(*self._random.choice(rendered))
            else:
                job.retake(self._random.choice((last - 1, last)), last=last)
            self.faults["(a job was edited)"] += 1

    def _replace(self, end: Callable[[FaultWorker], None]) -> None:
        index = self._random.randrange(WORKERS)
        end(self._workers[index])
        self._workers[index] = self._harness.start_worker(**SLOW)

    def _signal_child(self, number: int) -> None:
        for pid in self._random.choice(self._workers).pids[1:]:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _freeze(self) -> None:
        worker = self._random.choice(self._workers)
        worker.freeze()
        time.sleep(self._harness.lease_s * self._random.uniform(0.5, 2))
        worker.send(signal.SIGCONT)

    def _close_connections(self) -> None:
        for server in (self._harness.broker, self._harness.blob_server):
            client = redis.Redis(port=server.port)
            for kind in ("normal", "pubsub"):
                client.execute_command("CLIENT", "KILL", "TYPE", kind)

    def _damage(self) -> None:
        store = self._harness.jobs
        handoffs = [handoff for job_id in store.active() for handoff in store.handoffs(job_id)]
        clips = [clip.blob_id for job_id in store.active() for clip in store.clips(job_id).values()]
        ids = sorted(
            {*clips, *(blob for handoff in handoffs for blob in handoff_blobs(handoff))} & set(self._stored_ids())
        )
        if ids:
            damage(self._harness, self._random.choice(ids), self._random.choice(KINDS))

    def _stored_ids(self) -> list[str]:
        keys = redis.Redis(port=self._harness.blob_server.port).scan_iter("longtake:blob:*")
        return [f"sha256:{key.decode().rpartition(':')[2]}" for key in keys]

    def _restart(self, server: RedisProcess) -> None:
        server.stop(signal.SIGKILL)
        time.sleep(self._random.uniform(0, 1))
        server.start()


def film_with_parts(harness: Harness, length: int) -> str:
    """The hash of the film with parts, rendered in order."""
    film = submit(spec_with_parts(length) | {"parallel": False}, settings=harness.settings).wait().status().film
    assert film
    return film.sha256


@pytest.mark.faults
@pytest.mark.timeout(MINUTES * 60 + 600)
def test_chaos(make_harness: MakeHarness, tmp_path: Path) -> None:
    # Given the films of undisturbed jobs
    print(f"CHAOS_SEED={SEED} CHAOS_MINUTES={MINUTES:g}")
    reference, harness = make_harness(), make_harness()
    reference.start_worker()
    films = {length: film_of(reference, length) for length in LENGTHS}
    with_parts = {length: film_with_parts(reference, length) for length in LENGTHS}
    chance = random.Random(SEED)
    chaos = Chaos(harness, chance)
    jobs: list[Steered] = []
    end = threading.Event()
    # When faults are injected, and a new job is submitted for each that finishes
    until = time.monotonic() + MINUTES * 60
    while time.monotonic() < until:
        unfinished = [steered for steered in jobs if not steered.step()]
        for _ in range(JOBS - len(unfinished)):
            source = chance.choice(jobs) if jobs else None
            jobs.append(Steered.begin(harness, chance.choice(list(Way)), chance.choice(LENGTHS), source))
        end.wait(chance.uniform(0.2, 2))
        chaos.edit(chance.choice(jobs))
        chaos.inject()
    chaos.restart_workers()
    for steered in jobs:
        wait_until(steered.step, what=f"the end of a job that is steered: {steered.way}")
    # Then every job has the right film, once it shows what was rendered first
    for one in jobs:
        for take in [take for take in one.job.wait().takes() if take.shown and take.take]:
            one.job.choose(take.segment, 0)
    outcomes = []
    for one in jobs:
        has_parts = one.way == Way.WITH_PARTS
        film = (with_parts if has_parts else films)[one.length]
        found = harness.verify(one.job, film, denoised_again=10**6, shared=one.shared, in_order=not has_parts)
        outcomes.append(found)
    harness.wait_idle(killed=chaos.faults.total())  # the broker redelivers those after its visibility timeout
    again, segments = sum(outcome.denoised_again for outcome in outcomes), sum(one.length for one in jobs)
    print(f"{len(jobs)} jobs, {segments} segments, {chaos.faults.total()} faults, {again} denoised again")
    print(", ".join(f"{count} {way}" for way, count in sorted(Counter(one.way for one in jobs).items())))
    for name, count in sorted(chaos.faults.items()):
        print(f"  {count:4} x {name}")
