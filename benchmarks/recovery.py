"""Seconds until work runs again after a fault, with default settings.

    python -m benchmarks.recovery [--tries 3]

There are two workers, each behind a proxy. A row is a fault, a column a try:

- killed: the worker that renders is killed with its child; until the other one runs the engine for the same segment.
- silent cut: nothing from or to the worker that renders arrives; the same.
- forgotten: the connections of both idle workers go silent, new ones work; until a new job is in the engine.
- healed: nothing arrives for a minute, then everything does; the same, from there.
- failover: the broker is killed and its replica takes its place behind the same addresses; the same.

The bound is LONGTAKE_LEASE_S plus 5 s; 35 s for `forgotten`, and 10 s for `healed`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import redis

from benchmarks.idle import start_server
from tasks.client.submit import submit
from tasks.jobs.connection import connect
from tasks.jobs.keys import job_keys
from tasks.settings import Settings
from tests.conftest import STAND_IN, RedisProcess, Worker, wait_until
from tests.proxies import Proxy
from tests.stand_in import STEP_S
from tests.tasks.conftest import spec

CUT_S = 60.0


@dataclass
class Fleet:
    """Workers, the proxy to the broker that each has, and the servers. settings: without a proxy, for clients."""

    folder: Path
    settings: Settings
    broker: RedisProcess
    proxies: list[Proxy]
    workers: list[Worker]
    started: int = 0

    def start(self, number: int) -> None:
        """Start a worker, or replace one that is gone."""
        self.started += 1
        behind = self.settings.model_copy(update={"redis_url": self.proxies[number].url})
        self.workers[number:] = [
            Worker(behind, self.folder / f"worker-{self.started}.log").ready(),
            *self.workers[number + 1 :],
        ]


def main() -> None:
    """Print one row per fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=3)
    tries = parser.parse_args().tries
    os.environ[STEP_S] = "5"  # so that a cancelled segment ends soon
    with tempfile.TemporaryDirectory(prefix="longtake-") as name, fleet(Path(name)) as made:
        print(f"lease {made.settings.lease_s:g} s, bound {made.settings.lease_s + 5:g} s")
        for fault in (killed, silent_cut, forgotten, healed, failover):
            print(f"{fault.__name__.replace('_', ' '):12}", end="", flush=True)
            for _ in range(1 if fault is failover else tries):
                print(f"{fault(made):7.1f}", end="", flush=True)
            print()


@contextmanager
def fleet(folder: Path) -> Iterator[Fleet]:
    """Two workers on two servers."""
    with ExitStack() as stack:
        broker, blobs = start_server(folder / "broker"), start_server(folder / "blobs")
        stack.callback(broker.stop)
        stack.callback(blobs.stop)
        settings = Settings(redis_url=broker.url, blob_url=blobs.url, home=folder, engine=STAND_IN)
        proxies = [stack.enter_context(Proxy(broker.port)) for _ in range(2)]
        made = Fleet(folder, settings, broker, proxies, [])
        stack.callback(lambda: [worker.stop(signal.SIGQUIT) for worker in made.workers])
        made.start(0)
        made.start(1)
        yield made


def killed(made: Fleet) -> float:
    """Kill the worker that renders."""

    def kill(holder: int, pid: int) -> None:
        for process in (pid, made.workers[holder].process.pid):
            os.kill(process, signal.SIGKILL)

    holder, took = until_elsewhere(made, kill)
    made.start(holder)
    return took


def silent_cut(made: Fleet) -> float:
    """Cut the worker that renders off from the broker."""
    holder, took = until_elsewhere(made, lambda holder, _: made.proxies[holder].cut())
    made.proxies[holder].heal()
    return took


def forgotten(made: Fleet) -> float:
    """Let the connections of both workers go silent."""
    for proxy in made.proxies:
        proxy.forget()
    return until_in_engine(made)


def healed(made: Fleet) -> float:
    """Cut both workers off for a minute."""
    for proxy in made.proxies:
        proxy.cut()
    time.sleep(CUT_S)
    for proxy in made.proxies:
        proxy.heal()
    return until_in_engine(made)


def failover(made: Fleet) -> float:
    """Replace the broker by its replica."""
    (made.folder / "replica").mkdir()
    replica = RedisProcess(made.folder / "replica", "--replicaof", "127.0.0.1", str(made.broker.port))
    with redis.Redis(port=replica.port) as client:
        wait_until(lambda: client.info("replication")["master_link_status"] == "up", what="the replica")
        made.broker.stop(signal.SIGKILL)
        for proxy in made.proxies:
            proxy.move_to(replica.port)
        client.replicaof("NO", "ONE")
    made.broker = replica  # not stopped at the end: the workers stop before
    made.settings = made.settings.model_copy(update={"redis_url": replica.url})
    try:
        return until_in_engine(made)
    finally:
        for worker in made.workers:
            worker.stop(signal.SIGQUIT)
        replica.stop()


def until_elsewhere(made: Fleet, fault: Callable[[int, int], None]) -> tuple[int, float]:
    """The worker that renders a segment at the time of the fault, and the seconds until the other one runs it."""
    job = submit(spec("a"), settings=made.settings)
    wait_until(lambda: unit(made.settings, job.id).get("engine"), what="a segment in the engine")
    held = unit(made.settings, job.id)
    pid = int(held["worker"].rpartition(":")[2])
    holder = next(number for number, worker in enumerate(made.workers) if pid in children(worker))
    before = time.monotonic()
    fault(holder, pid)
    wait_until(lambda: runs_elsewhere(unit(made.settings, job.id), held), timeout_s=120, what="the segment elsewhere")
    took = time.monotonic() - before
    end(made, job)
    return holder, took


def until_in_engine(made: Fleet) -> float:
    """Seconds until a job that is submitted now is in the engine."""
    before = time.monotonic()
    job = submit(spec("a"), settings=made.settings)
    wait_until(lambda: unit(made.settings, job.id).get("engine"), timeout_s=1200, what="a segment in the engine")
    took = time.monotonic() - before
    end(made, job)
    return took


def end(made: Fleet, job: Any) -> None:
    """Cancel a job, and wait until its worker is idle."""
    job.cancel()
    time.sleep(6)  # one step, after which a cancelled segment ends


def unit(settings: Settings, job_id: str) -> dict[str, Any]:
    """The record of the claimed segment, or an empty one."""
    raw: Any = connect(settings.redis_url).hget(job_keys(job_id, "units")[0], "segment")
    return dict(json.loads(raw)) if raw else {}


def runs_elsewhere(now: dict[str, Any], held: dict[str, Any]) -> bool:
    """Whether a later claim is inside the engine call."""
    return bool(now.get("engine")) and now["fence"] > held["fence"]


def children(worker: Worker) -> list[int]:
    """The ids of a worker's child processes."""
    return [child.pid for child in psutil.Process(worker.process.pid).children()]


if __name__ == "__main__":
    main()
