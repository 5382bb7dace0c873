"""A blob server that is killed and restarted, with its data or empty. One counted failure ends a job here."""

from __future__ import annotations

import pytest

from tests.faults.harness import SEGMENTS, Failpoint, Harness, failpoints
from tests.faults.server_faults import restart, restart_empty

FIRST = [("state rendered", 1), ("segment rendered", 1), ("film claimed", -1)]


@pytest.fixture(scope="module")
def harness(one_attempt_harness: Harness) -> Harness:
    return one_attempt_harness


def blob_server_restarts_at(harness: Harness, film: str, failpoint: Failpoint) -> None:
    # Given
    hold = harness.hold(*failpoint)
    job = harness.submit()
    hold.wait()
    # When
    harness.mark_fault()
    restart(harness.blob_server)
    hold.release()
    # Then nothing is rendered again
    harness.verify(job, film)
    harness.wait_idle()


@pytest.mark.parametrize("failpoint", FIRST, ids="{0[0]}@{0[1]}".format)
def test_blob_server_restarts_with_its_data(harness: Harness, film: str, failpoint: Failpoint) -> None:
    blob_server_restarts_at(harness, film, failpoint)


@pytest.mark.faults
@pytest.mark.parametrize(
    "failpoint", [other for other in failpoints() if other not in FIRST], ids="{0[0]}@{0[1]}".format
)
def test_blob_server_restarts_with_its_data_anywhere(harness: Harness, film: str, failpoint: Failpoint) -> None:
    blob_server_restarts_at(harness, film, failpoint)


def test_blob_server_restarts_empty_before_the_last_segment(harness: Harness, film: str) -> None:
    # Given a job whose last segment has not read its input state yet
    hold = harness.hold("segment claimed", SEGMENTS - 1)
    job = harness.submit()
    hold.wait()
    # When
    harness.mark_fault()
    restart_empty(harness.blob_server)
    hold.release()
    # Then every segment before it is repaired in order; a clip may have been encoding at that moment
    harness.verify(job, film, denoised_again=SEGMENTS - 1, blobs_lost=True)
    harness.wait_idle()


def test_blob_server_restarts_empty_after_a_state_was_stored(harness: Harness, film: str) -> None:
    # Given a segment whose state is stored and not committed yet
    hold = harness.hold("segment rendered", 1)
    job = harness.submit()
    hold.wait()
    # When
    harness.mark_fault()
    restart_empty(harness.blob_server)
    hold.release()
    # Then it is put again; the segment before is rendered again for its clip or the film
    harness.verify(job, film, denoised_again=1, blobs_lost=True)
    harness.wait_idle()


def test_blob_server_restarts_empty_before_the_film(harness: Harness, film: str) -> None:
    # Given a job with all its clips
    hold = harness.hold("film claimed", -1)
    job = harness.submit()
    hold.wait()
    # When
    harness.mark_fault()
    restart_empty(harness.blob_server)
    hold.release()
    # Then every segment is rendered again
    harness.verify(job, film, denoised_again=SEGMENTS)
    harness.wait_idle()


@pytest.mark.faults
@pytest.mark.parametrize("failpoint", failpoints(), ids="{0[0]}@{0[1]}".format)
def test_blob_server_restarts_empty_anywhere(harness: Harness, film: str, failpoint: Failpoint) -> None:
    # Given
    hold = harness.hold(*failpoint)
    job = harness.submit()
    hold.wait()
    # When
    harness.mark_fault()
    restart_empty(harness.blob_server)
    hold.release()
    # Then the film is right, after a retry if the film itself was lost
    status = job.wait().status()
    if failpoint[0] in ("film stored", "film committed"):
        assert status.film
        assert status.film.blob_id not in harness.blobs
        job.retry()
    harness.verify(job, film, denoised_again=SEGMENTS, blobs_lost=True)
    harness.wait_idle()
