"""Names of workers: unique by default, and harmless when they are not."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.settings import Settings
from tests.conftest import environment, wait_until
from tests.forkserver import fork_server

Start = Callable[..., Path]


@pytest.fixture
def start(settings: Settings, tmp_path: Path) -> Iterator[Start]:
    """Start a worker with these arguments; returns its log once it is ready."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> Path:
        log = tmp_path / f"{len(processes)}.log"
        with log.open("wb") as file:
            started = fork_server().start(
                *arguments, environ=environment(settings), folder=tmp_path, out=file, err=file
            )
            processes.append(started)
        wait_until(lambda: "ready." in log.read_text(), what=f"the worker of {log}")
        return log

    yield start
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for process in processes:
        process.wait(60)


def name_and_sticky_queue(log: Path) -> tuple[str, str]:
    text = log.read_text()
    [name] = re.findall(r"\] (\S+) ready\.", text)
    [queue] = set(re.findall(r"segments@\S+", text))
    return name, queue


def test_two_workers_on_one_host_have_different_names(start: Start) -> None:
    found = [name_and_sticky_queue(start("tasks.cli", "worker")) for _ in range(2)]
    assert len({name for name, _ in found}) == 2
    assert len({queue for _, queue in found}) == 2


def test_workers_of_one_name_share_no_sticky_queue(start: Start) -> None:
    # Given two workers with the same name, as two containers with the same host name have
    logs = [start("celery.__main__", "-A", "tasks", "worker", "-n", "same@host", "-l", "INFO") for _ in range(2)]
    # Then
    found = [name_and_sticky_queue(log) for log in logs]
    assert [name for name, _ in found] == ["same@host", "same@host"]
    assert len({queue for _, queue in found}) == 2
