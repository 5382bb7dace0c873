"""Servers that are away for longer than a lease. On this ground a single counted failure ends a job."""

from __future__ import annotations

import signal
import threading

import pytest

from tests.conftest import RedisProcess
from tests.faults.breakage import unreachable
from tests.faults.ground import Ground
from tests.faults.worker import IN_THE_ENGINE

AWAY_S, LONG_AWAY_S = 2.5, 30.0
KINDS = pytest.mark.parametrize("kind", ["silent", "killed"])
SERVERS = pytest.mark.parametrize("name", ["broker", "blobs"])


@pytest.fixture(scope="module")
def ground(strict_ground: Ground) -> Ground:
    return strict_ground


def away(server: RedisProcess, kind: str, seconds: float) -> None:
    """Nobody gets an answer from the server for so long."""
    if kind == "silent":
        with unreachable(server):
            threading.Event().wait(seconds)
    else:
        server.stop(signal.SIGKILL)
        threading.Event().wait(seconds)
        server.start()


def outage_while_the_engine_works(ground: Ground, film: str, name: str, kind: str, seconds: float) -> None:
    # Given
    held = ground.hold(IN_THE_ENGINE, 1)
    job = ground.submit()
    held.pid()
    # When
    ground.breaks()
    held.release()
    away({"broker": ground.broker, "blobs": ground.blob_server}[name], kind, seconds)
    # Then what was being rendered is not lost
    ground.verify(job, film)
    ground.at_rest()


@SERVERS
def test_server_away_for_longer_than_a_lease(ground: Ground, film: str, name: str) -> None:
    outage_while_the_engine_works(ground, film, name, "killed", AWAY_S)


@pytest.mark.faults
@KINDS
@SERVERS
def test_server_away_for_30_s(ground: Ground, film: str, name: str, kind: str) -> None:
    outage_while_the_engine_works(ground, film, name, kind, LONG_AWAY_S)


@pytest.mark.parametrize("point", ["state rendered", "state stored"])
def test_a_child_killed_while_it_stores_a_state_is_no_failed_attempt(ground: Ground, film: str, point: str) -> None:
    # Given what a server that is away may keep for minutes / When
    job = ground.kill_at(point, 1)
    # Then
    ground.verify(job, film, denoised_again=1)
    ground.at_rest()
