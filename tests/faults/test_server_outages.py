"""Servers that are down or unresponsive for longer than a lease. One counted failure ends a job here."""

from __future__ import annotations

import signal
import threading

import pytest

from tests.conftest import RedisProcess
from tests.faults.harness import Harness
from tests.faults.server_faults import unresponsive
from tests.faults.worker import ENGINE_STEP

OUTAGE_S, LONG_OUTAGE_S = 2.5, 30.0
KINDS = pytest.mark.parametrize("kind", ["unresponsive", "killed"])
SERVERS = pytest.mark.parametrize("name", ["broker", "blobs"])


@pytest.fixture(scope="module")
def harness(one_attempt_harness: Harness) -> Harness:
    return one_attempt_harness


def outage(server: RedisProcess, kind: str, seconds: float) -> None:
    """Stop or kill the server for so many seconds."""
    if kind == "unresponsive":
        with unresponsive(server):
            threading.Event().wait(seconds)
    else:
        server.stop(signal.SIGKILL)
        threading.Event().wait(seconds)
        server.start()


def outage_inside_the_engine(harness: Harness, film: str, name: str, kind: str, seconds: float) -> None:
    # Given a segment in the engine
    hold = harness.hold(ENGINE_STEP, 1)
    job = harness.submit()
    hold.wait()
    # When
    harness.mark_fault()
    hold.release()
    outage({"broker": harness.broker, "blobs": harness.blob_server}[name], kind, seconds)
    # Then the segment is not rendered again
    harness.verify(job, film)
    harness.wait_idle()


@SERVERS
def test_server_down_for_longer_than_a_lease(harness: Harness, film: str, name: str) -> None:
    outage_inside_the_engine(harness, film, name, "killed", OUTAGE_S)


@pytest.mark.faults
@KINDS
@SERVERS
def test_server_down_or_unresponsive_for_30_s(harness: Harness, film: str, name: str, kind: str) -> None:
    outage_inside_the_engine(harness, film, name, kind, LONG_OUTAGE_S)


@pytest.mark.parametrize("point", ["state rendered", "state stored"])
def test_a_child_killed_while_it_stores_a_state_is_not_an_attempt(harness: Harness, film: str, point: str) -> None:
    # Given / When
    job = harness.kill_at(point, 1)
    # Then the job finishes: an outage can hold a child here for minutes, so a kill must not count
    harness.verify(job, film, denoised_again=1)
    harness.wait_idle()
