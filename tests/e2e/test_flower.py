"""A real Flower with a real worker: a job's tasks in its API and on its page."""

from __future__ import annotations

import html
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tasks import Job, submit
from tasks.embedded import processes
from tasks.settings import Settings
from tests.conftest import QUIET_CHROMIUM, ROOT, Worker, chromium, environment, free_port, wait_until
from tests.e2e.flower_api import get, states, tasks

LOGIN = "longtake:quay"
SPEC: dict[str, Any] = {
    "title": "harbour at dawn",
    "width": 96,
    "height": 64,
    "frames": 25,
    "fps": 24,
    "segments": [{"prompt": prompt} for prompt in ("a boat leaves", "gulls follow", "fog rolls in")],
}
SEGMENTS = [f"harbour at dawn · segment {number} of 3" for number in (1, 2, 3)]
FILM = "harbour at dawn · film"
CHROMIUM_FLAGS = [
    "--headless",
    *QUIET_CHROMIUM,
    "--virtual-time-budget=5000",
    "--dump-dom",
]


def documented_command() -> list[str]:
    """The command in docs/operations.md that starts Flower, without its address."""
    lines = (ROOT / "docs/operations.md").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("celery -A tasks flower")]
    return [word for word in shlex.split(line) if word != "&" and not word.startswith(("--port", "--address"))]


@pytest.fixture
def flower(settings: Settings, tmp_path: Path) -> Iterator[int]:
    """The port of a running Flower that receives the deployment's events."""
    port, log = free_port(), tmp_path / "flower.log"
    command = [*documented_command(), f"--port={port}", "--address=127.0.0.1"]
    with log.open("wb") as file:
        environ = environment(settings) | {"FLOWER_BASIC_AUTH": LOGIN}
        process = processes.start(command, log=file, environ=environ, cwd=tmp_path)
    try:
        with redis.Redis.from_url(settings.redis_url) as events:
            # The page responds before the event receiver has subscribed; events sent in between are lost.
            wait_until(
                lambda: process.poll() is not None or (get(port, "/healthcheck")[0] == 200 and events.pubsub_numpat()),
                what="Flower",
            )
        assert process.poll() is None, log.read_text()
        yield port
    finally:
        processes.stop(process, signal.SIGTERM)


def test_api_follows_a_job_from_the_queue_to_the_film(
    flower: int, settings: Settings, start_worker: Callable[..., Worker], tmp_path: Path
) -> None:
    # Given a job whose second segment takes as long as this test wants, and no worker
    first, _, last = SPEC["segments"]
    submit(SPEC | {"segments": [first, {"prompt": f"wait until {tmp_path / 'go'}"}, last]}, settings=settings)

    # Then its first segment is pending
    wait_until(lambda: states(flower, LOGIN) == {SEGMENTS[0]: "PENDING"}, what="the queued segment")

    # When a worker starts, Then the second segment is in progress
    start_worker(settings)
    wait_until(lambda: states(flower, LOGIN).get(SEGMENTS[1]) == "PROGRESS", what="progress of the second segment")
    assert tasks(flower, LOGIN)[SEGMENTS[1]]["name"] == "longtake.segment"

    # And in the end every task has succeeded, including the film
    (tmp_path / "go").touch()
    success = dict.fromkeys([*SEGMENTS, FILM], "SUCCESS")
    wait_until(lambda: states(flower, LOGIN) == success, what="the end of every task")
    assert tasks(flower, LOGIN)[FILM]["name"] == "longtake.film"


def test_page_shows_the_segments_of_a_job(
    flower: int, settings: Settings, start_worker: Callable[..., Worker], tmp_path: Path
) -> None:
    # Given a browser, and a finished job
    browser = chromium()
    start_worker(settings)
    Job(submit(SPEC, settings=settings).id, settings=settings).wait()
    address = f"http://{LOGIN}@127.0.0.1:{flower}/tasks"
    command = [browser, *CHROMIUM_FLAGS, f"--user-data-dir={tmp_path / 'profile'}", address]

    # When its tasks page is opened
    def all_shown() -> bool:
        dom = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60, check=True).stdout
        _, _, rows = html.unescape(dom).partition("<tbody")
        return all(f">{args}</td>" in rows for args in [*SEGMENTS, FILM])

    # Then each of its segments has a row
    wait_until(all_shown, what=f"the rows of {SEGMENTS}")


def test_password_is_required(flower: int) -> None:
    # Given a Flower with a password
    for path in ("/tasks", "/api/tasks"):
        # When / Then only the right login is accepted
        codes = [get(flower, path, login)[0] for login in ("", "longtake:wrong", LOGIN)]
        assert codes == [401, 401, 200], path
