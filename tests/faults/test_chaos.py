"""A seeded random run: several workers and jobs, and something breaks every second or two.

CHAOS_SEED (default: random, printed) and CHAOS_MINUTES (default: 2) say which run and how long.
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

from tasks.client.job import Job
from tasks.jobs.state_wire import handoff_blobs
from tests.conftest import RedisProcess
from tests.faults.conftest import Grounds, film_of
from tests.faults.damage import KINDS, damage
from tests.faults.ground import FaultWorker, Ground

SEED = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(10**6))
MINUTES = float(os.environ.get("CHAOS_MINUTES", "2"))
WORKERS, JOBS, LENGTHS = 2, 4, (3, 5, 8)
SLOW = {"STAND_IN_STEP_S": "0.05", "LONGTAKE_MAX_ATTEMPTS": "100"}


class Chaos:
    """Breaks one thing after another on a ground."""

    def __init__(self, ground: Ground, random: random.Random) -> None:
        self.faults: Counter[str] = Counter()
        self._ground = ground
        self._random = random
        self._workers = [ground.start_worker(**SLOW) for _ in range(WORKERS)]
        self._deeds: dict[str, Callable[[], None]] = {
            "kill a child": lambda: self._signal_child(signal.SIGKILL),
            "kill a worker": lambda: self._replace(FaultWorker.kill),
            "SIGTERM to a worker": lambda: self._replace(FaultWorker.stop),
            "SIGQUIT to a worker": lambda: self._replace(lambda worker: worker.stop(signal.SIGQUIT)),
            "stop a worker past its lease": self._freeze,
            "cut every connection": self._cut,
            "damage a blob": self._damage,
            "restart the broker": lambda: self._restart(ground.broker),
            "restart the blob server": lambda: self._restart(ground.blob_server),
        }

    def strike(self) -> None:
        """Break something."""
        name = self._random.choice(sorted(self._deeds))
        self.faults[name] += 1
        self._deeds[name]()
        self.tend()

    def tend(self) -> None:
        """Start a worker anew that has ended by itself, as a supervisor does."""
        for place, worker in enumerate(self._workers):
            if worker.process.poll() is not None:
                self.faults["(a worker ended by itself)"] += 1
                self._workers[place] = self._ground.start_worker(**SLOW)

    def _replace(self, end: Callable[[FaultWorker], None]) -> None:
        place = self._random.randrange(WORKERS)
        end(self._workers[place])
        self._workers[place] = self._ground.start_worker(**SLOW)

    def _signal_child(self, number: int) -> None:
        for pid in self._random.choice(self._workers).pids[1:]:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _freeze(self) -> None:
        worker = self._random.choice(self._workers)
        worker.send(signal.SIGSTOP)
        time.sleep(self._ground.lease_s * self._random.uniform(0.5, 2))
        worker.send(signal.SIGCONT)

    def _cut(self) -> None:
        for server in (self._ground.broker, self._ground.blob_server):
            client = redis.Redis(port=server.port)
            for kind in ("normal", "pubsub"):
                client.execute_command("CLIENT", "KILL", "TYPE", kind)

    def _damage(self) -> None:
        store = self._ground.jobs
        handoffs = [handoff for job_id in store.active() for handoff in store.handoffs(job_id)]
        clips = [clip.blob_id for job_id in store.active() for clip in store.clips(job_id).values()]
        ids = sorted({*clips, *(blob for handoff in handoffs for blob in handoff_blobs(handoff))} & set(self._there()))
        if ids:
            damage(self._ground, self._random.choice(ids), self._random.choice(KINDS))

    def _there(self) -> list[str]:
        keys = redis.Redis(port=self._ground.blob_server.port).scan_iter("longtake:blob:*")
        return [f"sha256:{key.decode().rpartition(':')[2]}" for key in keys]

    def _restart(self, server: RedisProcess) -> None:
        server.stop(signal.SIGKILL)
        time.sleep(self._random.uniform(0, 1))
        server.start()


@pytest.mark.faults
@pytest.mark.timeout(MINUTES * 60 + 600)
def test_chaos(grounds: Grounds, tmp_path: Path) -> None:
    # Given the films of undisturbed jobs, and jobs that come as others end
    print(f"CHAOS_SEED={SEED} CHAOS_MINUTES={MINUTES:g}")
    calm, ground = grounds(), grounds()
    calm.start_worker()
    films = {length: film_of(calm, length) for length in LENGTHS}
    chance = random.Random(SEED)
    chaos = Chaos(ground, chance)
    jobs: list[tuple[Job, int]] = []
    end = threading.Event()
    # When
    until = time.monotonic() + MINUTES * 60
    while time.monotonic() < until:
        unfinished = [job for job, _ in jobs if not job.status().finished]
        for _ in range(JOBS - len(unfinished)):
            length = chance.choice(LENGTHS)
            jobs.append((ground.submit(length), length))
        end.wait(chance.uniform(0.2, 2))
        chaos.strike()
    chaos.tend()
    # Then every job has its film
    outcomes = [ground.verify(job, films[length], denoised_again=10**6) for job, length in jobs]
    ground.at_rest(killed=chaos.faults.total())  # the broker gives those out again after its visibility timeout
    again, segments = sum(outcome.denoised_again for outcome in outcomes), sum(length for _, length in jobs)
    print(f"{len(jobs)} jobs, {segments} segments, {chaos.faults.total()} faults, {again} denoised again")
    for name, count in sorted(chaos.faults.items()):
        print(f"  {count:4} x {name}")
