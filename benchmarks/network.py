"""Seconds until work runs again when packets are lost between hosts, with default settings.

    sudo python -m benchmarks.network [--tries 3]

Hosts are network namespaces on one bridge: the broker, the blob server, and two with a worker each. A cut lets a host
send its packets for another one to an address of the link layer that nobody has: they vanish without an error. A row is
a fault, a column a try:

- cut, cut to broker, cut from broker: the worker that renders is cut off from the broker, in both directions or in one;
  until the other one runs the engine for the same segment.
- logged: until the worker that is cut off has logged it.
- cut from blobs: the worker that renders is cut off from the blob server in both directions; the same as for `cut`.
- moved: the hosts of both idle workers get other addresses: connections that exist are dead without an error, new ones
  work; until a new job is in the engine.
- healed: both workers are cut off for a minute; until a new job is in the engine, from the end of the cut.
- none, 2 % lost, 10 % lost, 80 ms: a job of ten segments of one second each, with that loss in each direction, or with
  that round trip; until its film is done, then how often a segment was rendered again. These need netem in the kernel.

The bound is LONGTAKE_LEASE_S plus 5 s; 35 s for `moved`, and 10 s for `healed`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.recovery import CUT_S, until_elsewhere, until_in_engine
from tasks.client.submit import submit
from tasks.embedded import processes
from tasks.embedded.servers import find_redis_server
from tasks.settings import Settings
from tests.conftest import STAND_IN, environment, wait_until
from tests.stand_in import STEP_S
from tests.tasks.conftest import job_store, spec

WORLD = "longtake"
SWITCH = f"{WORLD}-switch"
BROKER, BLOBS, WORKERS = "broker", "blobs", ("worker-0", "worker-1")
NOBODY = "02:00:00:00:00:77"  # an address of the link layer
SEGMENTS = 10


class Network:
    """Hosts that reach each other. A context manager."""

    def __init__(self, hosts: Sequence[str]) -> None:
        self._address = {host: f"10.77.0.{number}" for number, host in enumerate(hosts, start=1)}
        self._moves = 0

    def __enter__(self) -> Network:
        ip("netns", "add", SWITCH)
        ip("-n", SWITCH, "link", "add", "bridge", "type", "bridge")
        ip("-n", SWITCH, "link", "set", "bridge", "up")
        for host in self._address:
            ip("netns", "add", space(host))
            port = ("peer", "name", host, "netns", SWITCH)
            ip("-n", SWITCH, "link", "add", "eth0", "netns", space(host), "type", "veth", *port)
            ip("-n", SWITCH, "link", "set", host, "master", "bridge", "up")
            self._start(host)
        return self

    def __exit__(self, *_: object) -> None:
        for name in (*map(space, self._address), SWITCH):
            subprocess.run(["ip", "netns", "del", name], check=False)

    def _start(self, host: str) -> None:
        ip("-n", space(host), "addr", "add", f"{self._address[host]}/24", "dev", "eth0")
        for link in ("lo", "eth0"):
            ip("-n", space(host), "link", "set", link, "up")

    def address(self, host: str) -> str:
        """The address of a host."""
        return self._address[host]

    def cut(self, sender: str, receiver: str) -> None:
        """Let packets from one host to another vanish."""
        neighbour = (self._address[receiver], "lladdr", NOBODY, "dev", "eth0", "nud", "permanent")
        ip("-n", space(sender), "neigh", "replace", *neighbour)

    def heal(self, sender: str, receiver: str) -> None:
        """End a cut."""
        ip("-n", space(sender), "neigh", "del", self._address[receiver], "dev", "eth0")

    def move(self, host: str) -> None:
        """Give a host another address; its connections stay open, and nothing arrives on them any more."""
        self._moves += 1
        old, self._address[host] = self._address[host], f"10.77.0.{100 + self._moves}"
        ip("-n", space(host), "addr", "del", f"{old}/24", "dev", "eth0")
        ip("-n", space(host), "addr", "add", f"{self._address[host]}/24", "dev", "eth0")

    def shape(self, host: str, *, delay_ms: float = 0, loss: float = 0) -> bool:
        """Delay what a host sends, and lose a share of it; False where the kernel cannot."""
        netem = ("netem", "delay", f"{delay_ms}ms", "loss", f"{100 * loss}%")
        command = ["tc", "-n", space(host), "qdisc", "replace", "dev", "eth0", "root", *netem]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def ip(*words: str) -> None:
    """Run the command `ip`."""
    subprocess.run(["ip", *words], check=True)


def space(host: str) -> str:
    """The name of a host's network namespace."""
    return f"{WORLD}-{host}"


@dataclass
class Hosts:
    """A deployment on these hosts. settings: those of clients, which use Unix sockets."""

    folder: Path
    settings: Settings
    network: Network
    step_s: float
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    logs: list[Path] = field(default_factory=list)

    @property
    def pids(self) -> list[int]:
        return [worker.pid for worker in self.workers]

    def start_workers(self) -> None:
        """One worker on each host for them."""
        urls = {"redis_url": BROKER, "blob_url": BLOBS}
        settings = self.settings.model_copy(
            update={name: f"redis://{self.network.address(host)}:6379/0" for name, host in urls.items()}
        )
        for host in WORKERS:
            self.logs.append(self.folder / f"{host}-{self.step_s:g}.log")
            with self.logs[-1].open("wb") as log:
                command = [sys.executable, "-m", "tasks.cli", "worker", "--name", f"{host}@{host}"]
                environ = environment(settings) | {STEP_S: str(self.step_s)}
                self.workers.append(processes.start(on(host, command), log=log, environ=environ, cwd=self.folder))
        for log in self.logs:
            wait_until(lambda log=log: "ready." in log.read_text(), timeout_s=120, what="a worker")

    def stop_workers(self) -> None:
        """Stop both workers."""
        for worker in self.workers:
            processes.stop(worker, signal.SIGQUIT, timeout_s=60)
        self.workers.clear()
        self.logs.clear()


def on(host: str, command: Sequence[str]) -> list[str]:
    """The command that runs `command` on a host."""
    return ["ip", "netns", "exec", space(host), *command]


@contextmanager
def deployed(folder: Path, network: Network, step_s: float) -> Iterator[Hosts]:
    """Servers and workers on the hosts of `network`."""
    with ExitStack() as stack:
        urls = {}
        for host in (BROKER, BLOBS):
            place = folder / f"{host}-{step_s:g}"
            place.mkdir()
            options = {"bind": "0.0.0.0", "protected-mode": "no", "unixsocket": str(place / "redis.sock")}
            options |= {"dir": str(place), "save": "", "appendonly": "yes", "maxmemory-policy": "noeviction"}
            words = [word for name, value in options.items() for word in (f"--{name}", value)]
            with (place / "log").open("wb") as log:
                server = processes.start(on(host, [find_redis_server(), *words]), log=log)
            stack.callback(processes.stop, server, signal.SIGTERM)
            wait_until(Path(options["unixsocket"]).exists, what="redis-server")
            urls[host] = f"unix://{options['unixsocket']}"
        settings = Settings(redis_url=urls[BROKER], blob_url=urls[BLOBS], home=folder, engine=STAND_IN)
        made = Hosts(folder, settings, network, step_s)
        stack.callback(made.stop_workers)
        made.start_workers()
        yield made


def main(make_network: Callable[[Sequence[str]], Network] = Network) -> None:
    """Print one row per fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=3)
    tries = parser.parse_args().tries
    if os.geteuid() != 0 or shutil.which("ip") is None:
        sys.exit("benchmarks.network needs root, and `ip` (Debian: iproute2), to make network namespaces")
    with tempfile.TemporaryDirectory(prefix="longtake-") as name, make_network((BROKER, BLOBS, *WORKERS)) as network:
        with deployed(Path(name), network, step_s=5) as made:
            print(f"lease {made.settings.lease_s:g} s, bound {made.settings.lease_s + 5:g} s", flush=True)
            for fault in (cut, cut_to_broker, cut_from_broker, cut_from_blobs, moved, healed):
                figures = [fault(made) for _ in range(tries)]
                print_row(fault.__name__.replace("_", " "), [took for took, _ in figures])
                if fault is cut:
                    print_row("  logged", [logged for _, logged in figures])
        with deployed(Path(name), network, step_s=0.25) as made:
            for row, delay_ms, loss in (("none", 0, 0), ("2 % lost", 0, 0.02), ("10 % lost", 0, 0.1), ("80 ms", 40, 0)):
                hosts = (BROKER, BLOBS, *WORKERS)
                if row != "none" and not all(network.shape(host, delay_ms=delay_ms, loss=loss) for host in hosts):
                    print(f"{row:18} needs netem in the kernel")
                    continue
                figures = [film(made) for _ in range(tries)]
                print_row(row, [took for took, _ in figures])
                print_row("  again", [again for _, again in figures])


def print_row(row: str, figures: Sequence[float]) -> None:
    """Print a row and its figures."""
    print(f"{row:18}{''.join(f'{figure:7.1f}' for figure in figures)}", flush=True)


def cut(made: Hosts) -> tuple[float, float]:
    """Cut the worker that renders off from the broker, in both directions; also the seconds until that is logged."""
    return cut_off(made, BROKER)


def cut_to_broker(made: Hosts) -> tuple[float, float]:
    """Nothing from the worker that renders reaches the broker."""
    return cut_off(made, BROKER, back=False)


def cut_from_broker(made: Hosts) -> tuple[float, float]:
    """Nothing from the broker reaches the worker that renders."""
    return cut_off(made, BROKER, there=False)


def cut_from_blobs(made: Hosts) -> tuple[float, float]:
    """Cut the worker that renders off from the blob server."""
    return cut_off(made, BLOBS)


def cut_off(made: Hosts, server: str, *, there: bool = True, back: bool = True) -> tuple[float, float]:
    """Cut the worker that renders off; seconds until the other one has its segment, and until the cut is logged."""
    ways: list[tuple[str, str]] = []
    lines = 0
    since = 0.0

    def fault(holder: int, _: int) -> None:
        nonlocal lines, since
        host = WORKERS[holder]
        lines = outage_lines(made.logs[holder])
        ways.extend([(host, server)] * there + [(server, host)] * back)
        for way in ways:
            made.network.cut(*way)
        since = time.monotonic()

    logged: list[float] = []

    def watch(holder: int) -> None:
        if not logged and outage_lines(made.logs[holder]) > lines:
            logged.append(time.monotonic() - since)

    holder, took = until_elsewhere(made, fault, watch=watch)
    wait_until(lambda: watch(holder) or logged, timeout_s=120, what="a line of the log")
    for way in ways:
        made.network.heal(*way)
    wait_until(lambda: is_whole(made.logs[holder]), timeout_s=120, what="the end of the outage")
    return took, logged[0]


def outage_lines(log: Path) -> int:
    """How many outages a worker has logged."""
    return log.read_text().count("cannot be used, waiting for it")


def is_whole(log: Path) -> bool:
    """Whether every outage in a log has ended."""
    return outage_lines(log) == log.read_text().count("can be used again after")


def moved(made: Hosts) -> tuple[float, float]:
    """Give the hosts of both workers other addresses."""
    for host in WORKERS:
        made.network.move(host)
    return until_in_engine(made), 0.0


def healed(made: Hosts) -> tuple[float, float]:
    """Cut both workers off for a minute."""
    ways = [way for host in WORKERS for way in ((host, BROKER), (BROKER, host))]
    for way in ways:
        made.network.cut(*way)
    time.sleep(CUT_S)
    for way in ways:
        made.network.heal(*way)
    return until_in_engine(made), 0.0


def film(made: Hosts) -> tuple[float, float]:
    """Render a job; also how many segments were rendered again."""
    before = time.monotonic()
    job = submit(spec(*map(str, range(SEGMENTS))), settings=made.settings)
    job.wait()
    took = time.monotonic() - before
    handoffs = job_store(made.settings).handoffs(job.id)
    return took, float(max(handoff.fence for handoff in handoffs) - len(handoffs))


if __name__ == "__main__":
    main()
