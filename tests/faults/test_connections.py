"""Connections to the servers that break under a running job."""

from __future__ import annotations

import pytest

from tests.conftest import wait_until
from tests.faults.breakage import kill_connections
from tests.faults.ground import Ground
from tests.faults.worker import IN_THE_ENGINE

PLACES = [
    (IN_THE_ENGINE, 0),
    ("segment stored", 0),
    ("message announced", 1),
    (IN_THE_ENGINE, 1),
    ("clip encoded", 1),
    ("segment hydrated", 2),
    ("film claimed", -1),
]


@pytest.fixture(scope="module")
def ground(strict_ground: Ground) -> Ground:
    return strict_ground


def test_every_connection_killed_again_and_again(ground: Ground, film: str) -> None:
    # Given
    places = [ground.hold(*place) for place in PLACES]
    job = ground.submit()
    # When
    ground.breaks()
    for held in places:
        held.pid()
        kill_connections(ground.broker)
        kill_connections(ground.blob_server)
        held.release()
    # Then
    ground.verify(job, film)
    ground.at_rest()


@pytest.mark.faults
def test_every_connection_killed_all_the_time(ground: Ground, film: str) -> None:
    # Given
    jobs = [ground.submit() for _ in range(10)]
    # When
    for job in jobs:
        for committed in range(job.status().segments + 1):
            kill_connections(ground.broker)
            kill_connections(ground.blob_server)
            wait_until(lambda job=job, least=committed: job.status().committed >= least, what="the next segment")
    # Then
    for job in jobs:
        ground.verify(job, film)
    ground.at_rest()
