"""Connections to the servers that break under a running job."""

from __future__ import annotations

import pytest

from tests.conftest import RedisProcess, wait_until
from tests.faults.breakage import kill_connections
from tests.faults.conftest import Grounds, film_of
from tests.faults.ground import Ground

SLOW_S = "0.1"
SEGMENTS = 5


@pytest.fixture(scope="module")
def ground(grounds: Grounds) -> Ground:
    """A ground with one slow worker, on which a single counted failure ends a job."""
    made = grounds(max_attempts=1)
    made.start_worker(STAND_IN_STEP_S=SLOW_S)
    return made


@pytest.fixture(scope="module")
def film(ground: Ground) -> str:
    return film_of(ground, SEGMENTS)


def server_of(ground: Ground, name: str) -> RedisProcess:
    return {"broker": ground.broker, "blobs": ground.blob_server}[name]


@pytest.mark.parametrize("name", ["broker", "blobs"])
def test_every_connection_killed_again_and_again(ground: Ground, film: str, name: str) -> None:
    # Given
    job = ground.submit(SEGMENTS)
    wait_until(lambda: job.status().progress)
    # When
    ground.breaks()
    for _ in range(2 * SEGMENTS):
        before = job.status().progress
        kill_connections(server_of(ground, name))
        wait_until(lambda before=before: job.status().progress != before or job.status().finished)
    # Then
    ground.verify(job, film)
    ground.at_rest()
