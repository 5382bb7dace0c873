"""Fixtures with real Redis servers and real workers; in CI, a skipped test fails."""

from __future__ import annotations

import functools
import gc
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import psutil
import pytest
import redis
from hypothesis import settings as hypothesis_settings

from ltx2.processes import python_path
from tasks.embedded import processes
from tasks.embedded.servers import find_redis_server
from tasks.jobs.connection import connect
from tasks.jobs.store import JobStore
from tasks.settings import Settings
from tests.forkserver import ADDRESS, fork_server, launch

ROOT = Path(__file__).resolve().parents[1]
STAND_IN = "tests.stand_in:StandInEngine"
hypothesis_settings.register_profile("longtake", deadline=None)  # tests must pass on a busy machine
hypothesis_settings.load_profile("longtake")


def pytest_configure(config: pytest.Config) -> None:
    """Start the fork server early, for all test processes of this run."""
    if config.getoption("numprocesses", None) and ADDRESS not in os.environ:
        launch()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect no garbage meanwhile, nor later among what is imported here: each time, that would take half a second."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome: Any = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where everything must run: {report.longrepr}"


# Linux gives none of these to outgoing connections, nor those 10,000 above, which nodes of a cluster also use.
PORTS = range(12_000, 22_000, 100)


@functools.cache
def own_ports() -> Iterator[int]:
    """A hundred ports, again and again, that no other test process on this machine has."""
    for first in PORTS:
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0longtake-tests-ports-{first}")  # an abstract name exists once
        except OSError:
            claim.close()
            continue
        claim.detach()  # open until this process ends
        return itertools.cycle(range(first, first + PORTS.step))
    raise AssertionError("other test processes have all ports")


def free_port() -> int:
    """A port at which nothing listens, and that no other test process gets."""
    return next(filter(is_free, own_ports()))


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def wait_until(condition: Callable[[], Any], *, timeout_s: float = 120.0, what: str = "") -> Any:
    """Wait until `condition()` is true and return its value; fails after `timeout_s`."""
    end = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < end, f"timed out waiting for {what or condition}"
        time.sleep(0.05)
    return value


class RedisProcess:
    """A redis-server on a loopback port that a test can kill and start again."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.folder = folder
        self._options = options
        self.start()

    def start(self) -> None:
        command = [find_redis_server(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        command += ["--save", "", "--maxmemory-policy", "noeviction"]
        command += ["--repl-diskless-sync-delay", "0", *self._options]  # a master waits for more replicas otherwise
        with (self.folder / "redis.log").open("ab") as log:
            self.process = processes.start(command, log=log)
        wait_until(self._responds, what="redis-server")

    def _responds(self) -> bool:
        # closed explicitly: after a retry, a reference cycle in redis-py keeps the client and its connection
        with redis.Redis(port=self.port) as client:
            try:
                return bool(client.ping())
            except redis.AuthenticationError:
                return True
            except redis.RedisError:
                return False

    def stop(self, number: int = signal.SIGTERM) -> None:
        processes.stop(self.process, number)

    def aof(self) -> Path:
        """Its append-only file; Redis 7 has a folder with a base file and incremental files."""
        newest = sorted(self.folder.glob("appendonlydir/*.incr.aof"))
        return newest[-1] if newest else self.folder / "appendonly.aof"


class Worker:
    """A longtake worker in its own process."""

    def __init__(self, settings: Settings, log: Path, *options: str, program: str = "tasks.cli") -> None:
        self.log = log
        arguments = ("worker", "--name", f"{log.stem}@test", *options)
        with log.open("ab") as file:
            self.process = fork_server().start(
                program, *arguments, environ=environment(settings), folder=log.parent, out=file, err=file
            )

    def ready(self) -> Worker:
        """Wait until it consumes messages; returns itself."""
        wait_until(lambda: "ready." in self.text() or self.process.poll() is not None, what=f"worker: {self.text()}")
        assert self.process.poll() is None, self.text()
        return self

    def text(self) -> str:
        """Its log."""
        return self.log.read_text(errors="replace")

    def stop(self, number: int = signal.SIGTERM) -> None:
        processes.stop(self.process, number, timeout_s=60)

    def end(self) -> None:
        """Kill it with its children, which takes less time than a shutdown."""
        if "COVERAGE_PROCESS_CONFIG" in os.environ:  # only processes that shut down save what was measured
            self.stop(signal.SIGQUIT)
            return
        with suppress(psutil.NoSuchProcess):
            main = psutil.Process(self.process.pid)
            for process in [main, *main.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        self.process.wait()


def environment(settings: Settings) -> dict[str, str]:
    """Environment variables for a process with these settings and the packages on its path."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("LONGTAKE_", "FLOWER_"))}
    scripts = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return inherited | settings.environment() | {"PYTHONPATH": python_path(), "PATH": scripts, "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="session")
def small_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of small models, which all processes of a run share: each model is built once, under a lock."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "models"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory, small_models: Path) -> Path:
    """LONGTAKE_HOME of all tests of this process."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "models").symlink_to(small_models)
    return folder


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    """A Redis for tests that do not break it."""
    server = RedisProcess(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture
def settings(shared_redis: RedisProcess, home: Path) -> Settings:
    """Settings of a deployment on an empty Redis, with the stand-in engine and short leases."""
    redis.Redis(port=shared_redis.port).flushall()
    return Settings(redis_url=shared_redis.url, home=home, engine=STAND_IN, lease_s=2.0, reconcile_s=0.25)


@pytest.fixture
def jobs(settings: Settings) -> JobStore:
    return JobStore(connect(settings.redis_url), settings)


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Start workers; they end with the test."""
    started: list[Worker] = []

    def start(settings: Settings, *options: str, program: str = "tasks.cli") -> Worker:
        started.append(Worker(settings, tmp_path / f"worker-{len(started)}.log", *options, program=program))
        return started[-1]

    yield start
    for worker in started:
        worker.end()


def forked(module: str, *arguments: object) -> list[str]:
    """A command for `subprocess` and for shells that runs a module in a forked process, as with `python -m`.

    Its standard input is empty.
    """
    fork_server()  # puts its address into the environment
    return [sys.executable, "-ES", str(ROOT / "tests" / "forked_command.py"), module, *map(str, arguments)]


@pytest.fixture
def longtake(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the `longtake` command in the test's temporary folder."""
    fork_server()  # before threads of a test use it

    def run(*arguments: object, settings: Settings, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        with TemporaryFile() as out, TemporaryFile() as err:
            process = fork_server().start(
                "tasks.cli", *arguments, environ=environment(settings), folder=tmp_path, out=out, err=err
            )
            try:
                status = process.wait(timeout_s)
            finally:
                processes.stop(process, signal.SIGKILL)
            for file in (out, err):
                file.seek(0)
            return subprocess.CompletedProcess(arguments, status, out.read().decode(), err.read().decode())

    return run


QUIET_CHROMIUM = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
"""Flags with which Chromium runs in a container, and calls no other host."""


def chromium() -> str:
    """Path of the browser for page tests; without one they are skipped, and in CI they fail."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium found: install Debian's `chromium` to test the page")
    return found
