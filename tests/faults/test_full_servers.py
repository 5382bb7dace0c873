"""A blob server or a broker that is out of memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tasks.errors import JobFailedError
from tests.conftest import wait_until
from tests.faults.conftest import SHORT_FULL_WAIT
from tests.faults.harness import Failpoint, Harness
from tests.faults.server_faults import client_of, full, wait_idle_after_redelivery


@pytest.fixture(scope="module")
def harness(one_attempt_harness: Harness) -> Harness:
    return one_attempt_harness


def short_first(*cases: Failpoint) -> list[object]:
    """One parameter per failpoint; all except the first have the mark `faults`."""
    return [
        pytest.param(case, id="{}@{}".format(*case), marks=[pytest.mark.faults] if number else [])
        for number, case in enumerate(cases)
    ]


def logged_again(harness: Harness, text: str) -> Callable[[], bool]:
    """A condition: a worker has logged `text` since this call."""
    before = sum(worker.text().count(text) for worker in harness.workers)
    return lambda: sum(worker.text().count(text) for worker in harness.workers) > before


@pytest.mark.parametrize(
    "failpoint", short_first(("state rendered", 1), ("segment rendered", 1), ("clip encoded", 1), ("film joined", -1))
)
def test_blob_server_full_for_a_while(harness: Harness, film: str, failpoint: Failpoint) -> None:
    # Given
    client_of(harness.blob_server).flushall()  # the job of an earlier test stored the same blobs
    hold, waits = harness.hold(*failpoint), logged_again(harness, "waiting for the blob store to have room")
    ends = logged_again(harness, "the blob store has room again after ")
    job = harness.submit()
    hold.wait()
    # When
    harness.mark_fault()
    with full(harness.blob_server):
        hold.release()
        wait_until(waits, what="the worker to wait for memory on the blob server")
    # Then nothing is rendered again
    harness.verify(job, film)
    assert ends()
    harness.wait_idle()


def test_blob_server_full_for_longer_than_workers_wait(harness: Harness, film: str, longtake: Any) -> None:
    # Given
    client_of(harness.blob_server).flushall()
    hold = harness.hold("state rendered", 1)
    job = harness.submit()
    hold.wait()
    wait_until(lambda: job.status().clips > 0, what="the clip of segment 0 to be stored")
    # When
    harness.mark_fault()
    with full(harness.blob_server):
        hold.release()
        # Then the job fails
        with pytest.raises(JobFailedError, match=r"at segment 1 after 1 attempt: BlobStoreFullError: .* is full"):
            job.wait()
    # When there is memory again, and the job is retried
    assert longtake("retry", job.id, settings=harness.settings).returncode == 0
    # Then the segment whose state was not stored is rendered again
    harness.verify(job, film, denoised_again=1)
    harness.wait_idle()


@pytest.mark.parametrize(
    "failpoint", short_first(("segment hydrated", 1), ("segment committed", 1), ("film joined", -1))
)
def test_broker_full_for_a_while(harness: Harness, film: str, failpoint: Failpoint) -> None:
    # Given
    hold, waits = harness.hold(*failpoint), logged_again(harness, "waiting for Redis to have memory")
    job = harness.submit()
    hold.wait()
    # When
    harness.mark_fault()
    with full(harness.broker):
        hold.release()
        wait_until(waits, what="the worker to wait for memory on the broker")
    # Then nothing is rendered again, and the worker survives
    harness.verify(job, film)
    harness.wait_idle()
    assert harness.workers[-1].process.poll() is None


def test_broker_full_at_an_acknowledgement(harness: Harness, film: str) -> None:
    # Given a worker that is about to acknowledge a message
    hold, worker = harness.hold("message chained", 2), harness.workers[-1]
    job = harness.submit()
    hold.wait()
    # When Celery cannot acknowledge it, Then the worker exits
    harness.mark_fault()
    with full(harness.broker):
        hold.release()
        wait_until(lambda: worker.process.poll() is not None, what="the worker to exit")
    # When a worker is started after there is memory again, Then it continues the job
    harness.start_worker(**SHORT_FULL_WAIT)
    harness.verify(job, film)
    wait_idle_after_redelivery(harness)
