"""The ground to break things on, and the table of what was survived."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RedisProcess
from tests.faults.crew import Crew
from tests.faults.ground import SEGMENTS, Ground, Outcome
from tests.faults.table import Rows, table

Grounds = Callable[..., Ground]
IMPATIENT = {"FAULT_CONSTANTS": "tasks.worker.failures.FULL_STORE_PATIENCE_S=2"}
AOF = ("--appendonly", "yes", "--appendfsync", "everysec")
_passed: dict[str, bool] = {}
_rows: Rows = {}


@pytest.fixture(scope="session")
def lasting_grounds(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Grounds]:
    """Make grounds, each with servers of its own and its `changes` of the settings; cleared away at the end."""
    made: list[Ground] = []

    def make(*, lease_s: float = 1.0, options: tuple[str, ...] = AOF, **changes: Any) -> Ground:
        folder = tmp_path_factory.mktemp("ground")
        for name in ("broker", "blobs"):
            (folder / name).mkdir()
        servers = (RedisProcess(folder / "broker", *options), RedisProcess(folder / "blobs", *options))
        made.append(Ground(folder, *servers, home, lease_s))
        made[-1].settings = made[-1].settings.model_copy(update=changes)
        return made[-1]

    yield make
    for ground in made:
        ground.leave()
    for ground in made:
        ground.stop()
        ground.broker.stop()
        ground.blob_server.stop()


@pytest.fixture(scope="module")
def grounds(lasting_grounds: Grounds) -> Iterator[Grounds]:
    """Make grounds whose workers leave when the module ends, and are waited for at the very end."""
    made: list[Ground] = []

    def make(**changes: Any) -> Ground:
        made.append(lasting_grounds(**changes))
        return made[-1]

    yield make
    for ground in made:
        ground.leave()


@pytest.fixture(scope="module")
def ground(grounds: Grounds) -> Ground:
    """A ground with one worker, for all tests of the module."""
    made = grounds()
    made.start_worker()
    return made


@pytest.fixture(scope="session")
def strict_ground(lasting_grounds: Grounds) -> Ground:
    """One ground for all that servers do: a single counted failure ends a job, and a full store is waited for 2 s."""
    made = lasting_grounds(max_attempts=1)
    made.start_worker(**IMPATIENT)
    return made


@pytest.fixture(scope="module")
def film(ground: Ground) -> str:
    """The hash of the film of an undisturbed job."""
    return film_of(ground, SEGMENTS)


def film_of(ground: Ground, segments: int) -> str:
    """The hash of the film of a job that nothing disturbs, with so many segments."""
    film = ground.submit(segments).wait().status().film
    assert film
    return film.sha256


@pytest.fixture(scope="session")
def everybody(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Crew]:
    """Servers that nobody breaks, and workers that do not outlive their tests; shared, because workers start slowly."""
    folder = tmp_path_factory.mktemp("crew")
    for name in ("broker", "blobs"):
        (folder / name).mkdir()
    servers = RedisProcess(folder / "broker", *AOF), RedisProcess(folder / "blobs", *AOF)
    made = Crew(folder, *servers, home)
    yield made
    made.stop()
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def undisturbed(everybody: Crew) -> str:
    """The hash of the film of an undisturbed job of the crew's."""
    everybody.staff(2)
    return film_of(everybody, SEGMENTS)


@pytest.fixture
def crew(everybody: Crew, undisturbed: str) -> Crew:
    """Two workers to break, and no job under way."""
    everybody.tidy()
    everybody.staff(2)
    return everybody


@pytest.fixture(autouse=True)
def costs(request: pytest.FixtureRequest) -> Iterator[None]:
    """Take what this test has measured along to the table."""
    Ground.outcomes.clear()
    yield
    request.node.user_properties += [("outcome", asdict(outcome)) for outcome in Ground.outcomes]


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
