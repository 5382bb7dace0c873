"""Nothing is left over: of a film that found no room on its worker's disk, and of jobs after their retention."""

from __future__ import annotations

import re
import resource
from typing import Any

import pytest

from blobstore import open_blob_store
from tasks.errors import JobFailedError
from tasks.maintenance.sweeper import Sweeper
from tests.conftest import RedisProcess, wait_until
from tests.faults.breakage import client_of
from tests.faults.conftest import Grounds, film_of
from tests.faults.ground import Ground

SEGMENTS = 8
ROOM = 16 * 1024  # less than the film, more than what the worker logs and the ground notes
RETENTION_S, GRACE_S = 5.0, 1.0
# What belongs to the deployment as a whole.
SHARED = re.compile(
    r"_kombu\.binding(_permanent)?\..+|_kombu\.binding_deadlines"  # which queues there are
    r"|unacked_mutex"  # held while kombu looks for messages to deliver again
    r"|longtake:queue:(segments|clips|films)"  # how many messages were announced, and which were claimed
    r"|longtake:(pulse|reconciler)"  # when a reconciler was here last, and which one works
)


@pytest.fixture(scope="module")
def ground(grounds: Grounds) -> Ground:
    """A ground that keeps jobs for a few seconds, and whose worker has a folder for its temporary files to itself."""
    made = grounds(retention_s=RETENTION_S, blob_grace_s=GRACE_S)
    (made.folder / "temporary").mkdir()
    made.start_worker(
        TMPDIR=str(made.folder / "temporary"), FAULT_CONSTANTS="tasks.maintenance.reconciler.SWEEP_EVERY_S=3600"
    )
    return made


@pytest.fixture(scope="module")
def film(ground: Ground) -> str:
    return film_of(ground, SEGMENTS)


def limit_files(pid: int, room: int) -> None:
    """No file that this process writes may become larger."""
    hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (room, hard))


def keys(server: RedisProcess) -> set[str]:
    return {key.decode() for key in client_of(server).scan_iter()}


def test_no_room_on_the_disk_for_the_film(ground: Ground, film: str, longtake: Any) -> None:
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
    ground.at_rest()
    done = job.status().film
    assert done
    assert done.size > ROOM


def test_ended_jobs_leave_nothing(ground: Ground, film: str) -> None:
    # Given jobs that are done, and one that was cancelled in the hands of a worker
    held = ground.hold("segment stored", 1)
    cancelled = ground.submit()
    held.pid()
    cancelled.cancel()
    held.release()
    ground.verify(ground.submit(SEGMENTS), film)
    ground.at_rest()
    # When their retention has passed and they are swept
    blobs = open_blob_store(ground.settings.blobs, ttl_s=GRACE_S)
    sweeper = Sweeper(ground.jobs, blobs, retention_s=RETENTION_S)

    def all_gone() -> bool:
        sweeper.sweep()
        return not client_of(ground.broker).exists("longtake:jobs")

    wait_until(all_gone, what="the jobs to be forgotten")
    # Then
    assert list(blobs.owners()) == []
    wait_until(lambda: not keys(ground.blob_server), what="the blobs to go")
    wait_until(lambda: not {key for key in keys(ground.broker) if not SHARED.fullmatch(key)}, what="the results to go")
