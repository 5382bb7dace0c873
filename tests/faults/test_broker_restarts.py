"""A broker that is killed and restarted, with all its data or without the latest writes.

One counted failure ends a job here: a broker fault must not count as a failed attempt.
"""

from __future__ import annotations

from itertools import pairwise

import pytest

from tasks.errors import JobNotFoundError
from tests.faults.harness import SEGMENTS, Failpoint, Harness, failpoints
from tests.faults.server_faults import aof_size, restart, wait_idle_after_redelivery

# Failpoints between claim and commit: the lease may expire while the broker is down.
UNDER_LEASE = ("segment claimed", "segment hydrated", "segment rendered", "segment stored")


@pytest.fixture(scope="module")
def harness(one_attempt_harness: Harness) -> Harness:
    return one_attempt_harness


def name_of(*case: Failpoint) -> str:
    return " to ".join(f"{point}@{index}" for point, index in case)


def params(cases: list[tuple[Failpoint, ...]]) -> list[object]:
    return [pytest.param(*case, id=name_of(*case)) for case in cases]


def broker_restarts_at(harness: Harness, film: str, failpoint: Failpoint) -> None:
    # Given
    hold = harness.hold(*failpoint)
    job = harness.submit()
    hold.wait()
    # When
    harness.mark_fault()
    restart(harness.broker)
    hold.release()
    # Then the claimed segment is rendered again if its lease expired meanwhile
    harness.verify(job, film, denoised_again=int(failpoint[0] in UNDER_LEASE))
    harness.wait_idle()


def broker_loses_writes(harness: Harness, film: str, since: Failpoint, until: Failpoint, *, again: int = 1) -> None:
    """Kill the broker at `until` and restart it with its data of `since`; at most `again` segments are repeated."""
    # Given
    first, second = harness.hold(*since), harness.hold(*until)
    # while a clip is held, its worker would render segment after segment
    following = [harness.hold("segment hydrated", until[1] + 1)] if until[0].startswith("clip ") else []
    job = harness.submit()
    first.wait()
    kept = aof_size(harness.broker)
    first.release()
    second.wait()
    # When
    harness.mark_fault()
    restart(harness.broker, keep_bytes=kept)
    for hold in (*following, second):
        hold.release()
    # Then only segments whose claim or commit was lost are rendered again
    harness.verify(job, film, denoised_again=again, commits_lost=1)
    wait_idle_after_redelivery(harness)


KILLED_AT: list[tuple[Failpoint, ...]] = [(failpoint,) for failpoint in failpoints()]
KILLED_FIRST = [(("segment hydrated", 1),), (("film claimed", -1),)]
LOST: list[tuple[Failpoint, ...]] = list(pairwise(failpoints()))
LOST_FIRST: list[tuple[Failpoint, ...]] = [
    (("segment stored", 1), ("segment committed", 1)),
    (("message announced", 2), ("message sent", 2)),
]


@pytest.mark.parametrize("failpoint", params(KILLED_FIRST))
def test_broker_restarts_with_its_data(harness: Harness, film: str, failpoint: Failpoint) -> None:
    broker_restarts_at(harness, film, failpoint)


@pytest.mark.faults
@pytest.mark.parametrize("failpoint", params([case for case in KILLED_AT if case not in KILLED_FIRST]))
def test_broker_restarts_with_its_data_anywhere(harness: Harness, film: str, failpoint: Failpoint) -> None:
    broker_restarts_at(harness, film, failpoint)


@pytest.mark.parametrize(("since", "until"), params(LOST_FIRST))
def test_broker_restarts_without_its_latest_writes(
    harness: Harness, film: str, since: Failpoint, until: Failpoint
) -> None:
    broker_loses_writes(harness, film, since, until)


@pytest.mark.faults
@pytest.mark.parametrize(("since", "until"), params([case for case in LOST if case not in LOST_FIRST]))
def test_broker_restarts_without_its_latest_writes_anywhere(
    harness: Harness, film: str, since: Failpoint, until: Failpoint
) -> None:
    broker_loses_writes(harness, film, since, until)


@pytest.mark.faults
@pytest.mark.parametrize("index", range(SEGMENTS))
def test_broker_restarts_without_a_whole_segment(harness: Harness, film: str, index: int) -> None:
    # the next segment is in progress, too, so two are rendered again
    broker_loses_writes(harness, film, ("segment claimed", index), ("clip committed", index), again=2)


def test_broker_restarts_without_a_submitted_job(harness: Harness, film: str) -> None:
    # Given a job that a worker renders
    kept = aof_size(harness.broker)
    hold = harness.hold("segment stored", 0)
    job = harness.submit()
    hold.wait()
    # When the broker loses it
    restart(harness.broker, keep_bytes=kept)
    hold.release()
    # Then the job does not exist, and the worker is free
    with pytest.raises(JobNotFoundError, match="there is no job"):
        job.status()
    wait_idle_after_redelivery(harness)
    harness.verify(harness.submit(), film)
