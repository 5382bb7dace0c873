"""A blob server that is killed and comes back, whole or empty. On this ground a single counted failure ends a job."""

from __future__ import annotations

import pytest

from tests.faults.breakage import restart, restart_empty
from tests.faults.ground import SEGMENTS, Ground, places

Place = tuple[str, int]
FIRST = [("state rendered", 1), ("segment rendered", 1), ("film claimed", -1)]


@pytest.fixture(scope="module")
def ground(strict_ground: Ground) -> Ground:
    return strict_ground


def blob_server_restarts_at(ground: Ground, film: str, place: Place) -> None:
    held = ground.hold(*place)
    job = ground.submit()
    held.pid()
    # When
    ground.breaks()
    restart(ground.blob_server)
    held.release()
    # Then
    ground.verify(job, film)
    ground.at_rest()


@pytest.mark.parametrize("place", FIRST, ids="{0[0]}@{0[1]}".format)
def test_blob_server_killed_and_back_whole(ground: Ground, film: str, place: Place) -> None:
    blob_server_restarts_at(ground, film, place)


@pytest.mark.faults
@pytest.mark.parametrize("place", [some for some in places() if some not in FIRST], ids="{0[0]}@{0[1]}".format)
def test_blob_server_killed_anywhere_and_back_whole(ground: Ground, film: str, place: Place) -> None:
    blob_server_restarts_at(ground, film, place)


def test_blob_server_comes_back_empty_in_mid_job(ground: Ground, film: str) -> None:
    # Given a job whose last segment has not read the state before it
    held = ground.hold("segment claimed", SEGMENTS - 1)
    job = ground.submit()
    held.pid()
    # When
    ground.breaks()
    restart_empty(ground.blob_server)
    held.release()
    # Then every segment before it is repaired, the first one first; a clip may have been in the making
    ground.verify(job, film, denoised_again=SEGMENTS - 1, blobs_lost=True)
    ground.at_rest()


def test_blob_server_comes_back_empty_when_a_state_has_just_been_stored(ground: Ground, film: str) -> None:
    # Given a segment whose state was stored, and is pinned next
    held = ground.hold("segment rendered", 1)
    job = ground.submit()
    held.pid()
    # When
    ground.breaks()
    restart_empty(ground.blob_server)
    held.release()
    # Then it is put again; what the segment before left is made again for the clip or the film
    ground.verify(job, film, denoised_again=1, blobs_lost=True)
    ground.at_rest()


def test_blob_server_comes_back_empty_when_the_film_is_next(ground: Ground, film: str) -> None:
    # Given a job with all its clips
    held = ground.hold("film claimed", -1)
    job = ground.submit()
    held.pid()
    # When
    ground.breaks()
    restart_empty(ground.blob_server)
    held.release()
    # Then
    ground.verify(job, film, denoised_again=SEGMENTS)
    ground.at_rest()


@pytest.mark.faults
@pytest.mark.parametrize("place", places(), ids="{0[0]}@{0[1]}".format)
def test_blob_server_comes_back_empty_anywhere(ground: Ground, film: str, place: Place) -> None:
    held = ground.hold(*place)
    job = ground.submit()
    held.pid()
    # When
    ground.breaks()
    restart_empty(ground.blob_server)
    held.release()
    # Then
    status = job.wait().status()
    if place[0] in ("film stored", "film committed"):
        assert status.film
        assert status.film.blob_id not in ground.blobs
        job.retry()
    ground.verify(job, film, denoised_again=SEGMENTS, blobs_lost=True)
    ground.at_rest()
