"""Seconds until work runs again after a fault, with default settings.

    python -m benchmarks.recovery [--tries 3]

There are two workers, each behind a proxy. A row is a fault, a column a try:

- killed: the worker that renders is killed with its child; until the other one runs the engine for the same segment.
- silent cut: nothing from or to the worker that renders arrives; the same.
- forgotten: the connections of both idle workers go silent, new ones work; until a new job is in the engine.
- healed: nothing arrives for a minute, then everything does; the same, from there.
- clock ahead: the broker's clock is set one hour ahead, the worker that renders is killed, and 12 s later the clock is
  set back; until the other one runs the engine for the same segment.
- clock back: the clock is one hour ahead for 12 s, and the worker is killed when it is set back; the same, from there.
- failover: the broker is killed and its replica takes its place behind the same addresses; until a new job is in the
  engine.

The clock is that of the broker alone, changed by clock_shift.c, which needs a C compiler. The bound is LONGTAKE_LEASE_S
plus 5 s; 35 s for `forgotten`, and 10 s for `healed`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

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
HOUR_S, AHEAD_S = 3600, 12.0


class Deployed(Protocol):
    """A deployment whose work is watched. pids: the main processes of its workers."""

    settings: Settings

    @property
    def pids(self) -> list[int]: ...


@dataclass
class Fleet:
    """Workers, the proxy to the broker that each has, and the servers. settings: without a proxy, for clients.

    clock: the file with the seconds by which the broker's clock is ahead, None where it cannot be changed.
    """

    folder: Path
    settings: Settings
    broker: RedisProcess
    proxies: list[Proxy]
    workers: list[Worker]
    clock: Path | None = None
    started: int = 0

    @property
    def pids(self) -> list[int]:
        return [worker.process.pid for worker in self.workers]

    def shift_clock(self, seconds: int) -> None:
        """Set the broker's clock."""
        assert self.clock
        self.clock.write_text(str(seconds))

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
        clocks = (clock_ahead, clock_back) if made.clock else ()
        for fault in (killed, silent_cut, forgotten, healed, *clocks, failover):
            print(f"{fault.__name__.replace('_', ' '):12}", end="", flush=True)
            for _ in range(1 if fault is failover else tries):
                print(f"{fault(made):7.1f}", end="", flush=True)
            print()
        if not clocks:
            print("the clock cannot be changed here: no C compiler `cc` on PATH")


@contextmanager
def fleet(folder: Path) -> Iterator[Fleet]:
    """Two workers on two servers."""
    with ExitStack() as stack:
        clock = prepare_clock(folder)
        try:
            broker = start_server(folder / "broker")
        finally:
            os.environ.pop("LD_PRELOAD", None)
        blobs = start_server(folder / "blobs")
        stack.callback(broker.stop)
        stack.callback(blobs.stop)
        settings = Settings(redis_url=broker.url, blob_url=blobs.url, home=folder, engine=STAND_IN)
        proxies = [stack.enter_context(Proxy(broker.port)) for _ in range(2)]
        made = Fleet(folder, settings, broker, proxies, [], clock)
        stack.callback(lambda: [worker.stop(signal.SIGQUIT) for worker in made.workers])
        made.start(0)
        made.start(1)
        yield made


def prepare_clock(folder: Path) -> Path | None:
    """Let the next server that is started have a clock of its own; None without a C compiler."""
    if shutil.which("cc") is None:
        return None
    library, clock = folder / "clock_shift.so", folder / "clock"
    source = Path(__file__).with_name("clock_shift.c")
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    clock.write_text("0")
    os.environ |= {"LD_PRELOAD": str(library), "CLOCK_SHIFT": str(clock)}
    return clock


def killed(made: Fleet, prepare: Callable[[], None] = lambda: None) -> float:
    """Kill the worker that renders."""

    def kill(holder: int, pid: int) -> None:
        for process in (pid, made.pids[holder]):
            os.kill(process, signal.SIGKILL)

    holder, took = until_elsewhere(made, kill, prepare)
    made.start(holder)
    return took


def clock_ahead(made: Fleet) -> float:
    """Kill the worker that renders when the clock is set ahead, and set it back later."""

    def ahead() -> None:
        made.shift_clock(HOUR_S)
        threading.Timer(AHEAD_S, made.shift_clock, [0]).start()

    return killed(made, ahead)


def clock_back(made: Fleet) -> float:
    """Kill the worker that renders when a clock that was ahead is set back."""

    def ahead_and_back() -> None:
        made.shift_clock(HOUR_S)
        time.sleep(AHEAD_S)
        made.shift_clock(0)

    return killed(made, ahead_and_back)


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


def until_elsewhere(
    made: Deployed,
    fault: Callable[[int, int], None],
    prepare: Callable[[], None] = lambda: None,
    watch: Callable[[int], None] = lambda _: None,
) -> tuple[int, float]:
    """The worker that renders a segment at the time of the fault, and the seconds until the other one runs it.

    watch: called with that worker until then.
    """
    job = submit(spec("a"), settings=made.settings)
    wait_until(lambda: unit(made.settings, job.id).get("engine"), what="a segment in the engine")
    prepare()
    held = unit(made.settings, job.id)
    pid = int(held["worker"].rpartition(":")[2])
    holder = next(number for number, worker in enumerate(made.pids) if pid in children(worker))
    fault(holder, pid)
    before = time.monotonic()

    def runs() -> bool:
        watch(holder)
        return runs_elsewhere(unit(made.settings, job.id), held)

    wait_until(runs, timeout_s=180, what="the segment elsewhere")
    took = time.monotonic() - before
    end(made, job)
    return holder, took


def until_in_engine(made: Deployed) -> float:
    """Seconds until a job that is submitted now is in the engine."""
    before = time.monotonic()
    job = submit(spec("a"), settings=made.settings)
    wait_until(lambda: unit(made.settings, job.id).get("engine"), timeout_s=1200, what="a segment in the engine")
    took = time.monotonic() - before
    end(made, job)
    return took


def end(made: Deployed, job: Any) -> None:
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


def children(worker: int) -> list[int]:
    """The ids of the child processes of a worker's main process."""
    return [child.pid for child in psutil.Process(worker).children()]


if __name__ == "__main__":
    main()
