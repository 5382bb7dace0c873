"""A worker whose disk has no room for the film."""

from __future__ import annotations

import resource
from typing import Any

import pytest

from tasks.errors import JobFailedError
from tests.faults.conftest import Grounds, film_of
from tests.faults.ground import Ground

SEGMENTS = 8
ROOM = 16 * 1024  # less than the film, more than what the worker logs and the ground notes


@pytest.fixture(scope="module")
def ground(grounds: Grounds) -> Ground:
    made = grounds()
    (made.folder / "temporary").mkdir()
    made.start_worker(TMPDIR=str(made.folder / "temporary"))
    return made


@pytest.fixture(scope="module")
def film(ground: Ground) -> str:
    return film_of(ground, SEGMENTS)


def limit_files(pid: int, room: int) -> None:
    """No file that this process writes may become larger."""
    hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (room, hard))


def test_no_room_for_the_film(ground: Ground, film: str, longtake: Any) -> None:
    # Given a job with all its clips
    held = ground.hold("film claimed", -1)
    job = ground.submit(SEGMENTS)
    pid = held.pid()
    blobs = ground.blobs.pins(job.id)
    # When
    ground.breaks()
    limit_files(pid, ROOM)
    held.release()
    # Then
    with pytest.raises(JobFailedError, match="after 3 attempts: MediaError: cannot write the film: File too large"):
        job.wait()
    assert ground.count(job, "film claimed")[-1] == 3
    assert ground.blobs.pins(job.id) == blobs
    assert not list((ground.folder / "temporary").rglob("*.mp4"))
    # When there is room again
    limit_files(pid, resource.RLIM_INFINITY)
    assert longtake("retry", job.id, settings=ground.settings).returncode == 0
    # Then
    ground.verify(job, film)
    done = job.status().film
    assert done
    assert done.size > ROOM
    ground.at_rest()
