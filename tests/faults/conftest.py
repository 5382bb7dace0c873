"""Fixtures of the fault tests, and the table of faults printed at the end of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RedisProcess
from tests.faults.harness import SEGMENTS, Harness, Outcome
from tests.faults.pool import WorkerPool
from tests.faults.table import Rows, table

MakeHarness = Callable[..., Harness]
SHORT_FULL_WAIT = {"FAULT_CONSTANTS": "tasks.worker.claims.failures.FULL_STORE_PATIENCE_S=2"}
AOF = ("--appendonly", "yes", "--appendfsync", "everysec")
_passed: dict[str, bool] = {}
_rows: Rows = {}


def start_servers(folder: Path, *options: str) -> tuple[RedisProcess, RedisProcess]:
    """A broker and a blob server, each in a folder of its own."""
    for name in ("broker", "blobs"):
        (folder / name).mkdir()
    return RedisProcess(folder / "broker", *options), RedisProcess(folder / "blobs", *options)


@pytest.fixture(scope="session")
def make_session_harness(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[MakeHarness]:
    """Make a harness with its own servers; `changes` go into its settings. Stopped at the end of the run."""
    made: list[Harness] = []

    def make(*, lease_s: float = 1.0, options: tuple[str, ...] = AOF, **changes: Any) -> Harness:
        folder = tmp_path_factory.mktemp("harness")
        made.append(Harness(folder, *start_servers(folder, *options), home, lease_s))
        made[-1].settings = made[-1].settings.model_copy(update=changes)
        return made[-1]

    yield make
    for harness in made:
        harness.shut_down()
    for harness in made:
        harness.stop()
        harness.broker.stop()
        harness.blob_server.stop()


@pytest.fixture(scope="module")
def make_harness(make_session_harness: MakeHarness) -> Iterator[MakeHarness]:
    """Make a harness whose workers are shut down after the module; the run waits for them at its end."""
    made: list[Harness] = []

    def make(**changes: Any) -> Harness:
        made.append(make_session_harness(**changes))
        return made[-1]

    yield make
    for harness in made:
        harness.shut_down()


@pytest.fixture(scope="module")
def harness(make_harness: MakeHarness) -> Harness:
    """A harness with one worker, shared by all tests of the module."""
    made = make_harness()
    made.start_worker()
    return made


@pytest.fixture(scope="session")
def one_attempt_harness(make_session_harness: MakeHarness) -> Harness:
    """A harness for server faults: one counted failure ends a job, and workers wait 2 s for a full store."""
    made = make_session_harness(max_attempts=1)
    made.start_worker(**SHORT_FULL_WAIT)
    return made


@pytest.fixture(scope="module")
def film(harness: Harness) -> str:
    """The hash of the film of an undisturbed job."""
    return film_of(harness, SEGMENTS)


def film_of(harness: Harness, segments: int) -> str:
    """Render an undisturbed job of so many segments; returns the hash of its film."""
    film = harness.submit(segments).wait().status().film
    assert film
    return film.sha256


@pytest.fixture(scope="session")
def session_pool(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[WorkerPool]:
    """Servers and a pool of workers, shared by all process faults because workers start slowly."""
    folder = tmp_path_factory.mktemp("pool")
    servers = start_servers(folder, *AOF)
    made = WorkerPool(folder, *servers, home)
    yield made
    made.stop()
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def undisturbed(session_pool: WorkerPool) -> str:
    """The hash of the film of an undisturbed job of the pool."""
    session_pool.scale(2)
    return film_of(session_pool, SEGMENTS)


@pytest.fixture
def pool(session_pool: WorkerPool, undisturbed: str) -> WorkerPool:
    """Two workers and no job in progress."""
    session_pool.reset()
    session_pool.scale(2)
    return session_pool


@pytest.fixture(autouse=True)
def record_outcomes(request: pytest.FixtureRequest) -> Iterator[None]:
    """Attach the outcomes that this test measured to its report, for the table."""
    Harness.outcomes.clear()
    yield
    request.node.user_properties += [("outcome", asdict(outcome)) for outcome in Harness.outcomes]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call":
        _passed[report.nodeid] = report.passed
    elif report.when == "teardown" and report.nodeid in _passed:
        fault = report.nodeid.partition("::test_")[2].partition("[")[0].replace("_", " ")
        outcomes = [Outcome(**value) for name, value in report.user_properties if name == "outcome"]
        _rows.setdefault(fault, []).append((_passed[report.nodeid], outcomes))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _rows:
        terminalreporter.section("faults")
        for line in table(_rows):
            terminalreporter.write_line(line)
