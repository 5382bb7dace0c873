"""The process that exports the roots of traces: what it waits for, and that it cannot be started, stop nobody."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys

import pytest

from tasks.messaging.root_process import IDS_LIMIT, RootProcess


def test_one_that_waits_for_ever_is_killed() -> None:
    # Given a Redis and a collector that take connections and never answer
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        silence = {"LONGTAKE_REDIS_URL": f"redis://{place}/0", "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{place}"}
        # When the roots of jobs are exported, for one second at most
        program = "from tasks.messaging import export_roots as it; it.LONGEST_S = 1; it.main(['0' * 32])"
        ended = subprocess.run([sys.executable, "-c", program], env=os.environ | silence, check=False)
    # Then
    assert ended.returncode == -signal.SIGALRM


def test_one_that_cannot_be_started_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Given more jobs than one process exports
    roots = RootProcess()
    for number in range(IDS_LIMIT + 1):
        roots.add(f"{number:032x}")
    # When no process can be started
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            roots.start()
    # Then
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        f"the roots of {IDS_LIMIT} traces are lost",
        "the roots of 1 traces are lost",
    ]
