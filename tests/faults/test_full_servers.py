"""Servers without room: the blob store, the broker, and the disk on which a film is joined."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tasks.errors import JobFailedError
from tests.conftest import wait_until
from tests.faults.breakage import at_rest_once_redelivered, client_of, full
from tests.faults.conftest import IMPATIENT
from tests.faults.ground import Ground

Place = tuple[str, int]


@pytest.fixture(scope="module")
def ground(strict_ground: Ground) -> Ground:
    return strict_ground


def first_of(*places: Place) -> list[object]:
    """Every place; all but the first belong to the long part."""
    return [
        pytest.param(place, id="{}@{}".format(*place), marks=[pytest.mark.faults] if number else [])
        for number, place in enumerate(places)
    ]


def says(ground: Ground, text: str) -> Callable[[], bool]:
    """Whether a worker says this again."""
    before = sum(worker.text().count(text) for worker in ground.workers)
    return lambda: sum(worker.text().count(text) for worker in ground.workers) > before


@pytest.mark.parametrize(
    "place", first_of(("state rendered", 1), ("segment rendered", 1), ("clip encoded", 1), ("film joined", -1))
)
def test_blob_store_full_for_a_while(ground: Ground, film: str, place: Place) -> None:
    # Given
    client_of(ground.blob_server).flushall()  # the blobs of this film are there from the job before
    held, waits = ground.hold(*place), says(ground, "waiting for room")
    job = ground.submit()
    held.pid()
    # When
    ground.breaks()
    with full(ground.blob_server):
        held.release()
        wait_until(waits, what="the worker to wait for room")
    # Then
    ground.verify(job, film)
    ground.at_rest()


def test_blob_store_full_for_longer_than_anybody_waits(ground: Ground, film: str, longtake: Any) -> None:
    # Given
    client_of(ground.blob_server).flushall()
    held = ground.hold("state rendered", 1)
    job = ground.submit()
    held.pid()
    # When
    ground.breaks()
    with full(ground.blob_server):
        held.release()
        # Then
        with pytest.raises(JobFailedError, match=r"at segment 1 after 1 attempt: BlobStoreFullError: .* is full"):
            job.wait()
    # When there is room again
    assert longtake("retry", job.id, settings=ground.settings).returncode == 0
    # Then the segment that found no room is rendered once more
    ground.verify(job, film, denoised_again=1)
    ground.at_rest()


@pytest.mark.parametrize("place", first_of(("segment hydrated", 1), ("segment committed", 1), ("film joined", -1)))
def test_broker_full_for_a_while(ground: Ground, film: str, place: Place) -> None:
    # Given
    held, waits = ground.hold(*place), says(ground, "waiting for Redis to have memory")
    job = ground.submit()
    held.pid()
    # When
    ground.breaks()
    with full(ground.broker):
        held.release()
        wait_until(waits, what="the worker to wait for memory")
    # Then
    ground.verify(job, film)
    ground.at_rest()
    assert ground.workers[-1].process.poll() is None


def test_broker_full_when_a_message_should_be_acknowledged(ground: Ground, film: str) -> None:
    # Given a worker that has done all that a message waits for
    held, worker = ground.hold("message chained", 2), ground.workers[-1]
    job = ground.submit()
    held.pid()
    # When Celery cannot acknowledge it, the worker exits
    ground.breaks()
    with full(ground.broker):
        held.release()
        wait_until(lambda: worker.process.poll() is not None, what="the worker to exit")
    # Then one that is started when there is room goes on
    ground.start_worker(**IMPATIENT)
    ground.verify(job, film)
    at_rest_once_redelivered(ground)
