"""Connections to the servers that break while a job runs."""

from __future__ import annotations

import pytest

from tests.conftest import wait_until
from tests.faults.conftest import MakeHarness
from tests.faults.harness import Harness
from tests.faults.server_faults import kill_connections
from tests.faults.worker import ENGINE_STEP

FAILPOINTS = [
    (ENGINE_STEP, 0),
    ("segment stored", 0),
    ("message announced", 1),
    (ENGINE_STEP, 1),
    ("clip encoded", 1),
    ("segment hydrated", 2),
    ("film claimed", -1),
]


@pytest.fixture(scope="module")
def harness(one_attempt_harness: Harness) -> Harness:
    return one_attempt_harness


def test_every_connection_killed_at_seven_failpoints(harness: Harness, film: str) -> None:
    # Given
    holds = [harness.hold(*failpoint) for failpoint in FAILPOINTS]
    job = harness.submit()
    # When
    harness.mark_fault()
    for hold in holds:
        hold.wait()
        kill_connections(harness.broker)
        kill_connections(harness.blob_server)
        hold.release()
    # Then nothing is rendered again
    harness.verify(job, film)
    harness.wait_idle()


@pytest.mark.faults
def test_every_connection_killed_repeatedly(make_harness: MakeHarness, film: str) -> None:
    # Given leases that do not expire while a busy machine lets a renewal wait
    harness = make_harness(lease_s=30.0, max_attempts=1)
    harness.start_worker()
    jobs = [harness.submit() for _ in range(10)]
    # When
    for job in jobs:
        for committed in range(job.status().segments + 1):
            kill_connections(harness.broker)
            kill_connections(harness.blob_server)
            wait_until(lambda job=job, least=committed: job.status().committed >= least, what="the next segment")
    # Then nothing is rendered again
    for job in jobs:
        harness.verify(job, film)
    harness.wait_idle()
