"""A full disk under the film, and cleanup: no temporary files, and no keys after a job's retention."""

from __future__ import annotations

import re
import resource
from typing import Any

import pytest

from blobstore import open_blob_store
from blobstore.redis.outages import PROBE_KEY
from tasks.errors import JobFailedError
from tasks.maintenance.sweeper import Sweeper
from tasks.worker.film_task import FILM_FOLDERS
from tests.conftest import RedisProcess, wait_until
from tests.faults.conftest import MakeHarness, film_of
from tests.faults.harness import Harness
from tests.faults.server_faults import client_of

SEGMENTS = 8
FILE_LIMIT = 16 * 1024  # bytes; smaller than the film, larger than the worker's log and the harness' events
RETENTION_S, GRACE_S = 5.0, 1.0
# Keys that belong to no job.
SHARED = re.compile(
    r"_kombu\.binding(_permanent)?\..+|_kombu\.binding_deadlines"  # existing queues
    r"|unacked_mutex"  # kombu's lock for redelivery
    r"|longtake:queue:(segments|clips|films)"  # number of announced and of claimed messages
    r"|longtake:(pulse|reconciler)"  # time of the last reconciler pass, and the active reconciler
    r"|longtake:(workers|worker:\w+)"  # heartbeats
    r"|longtake:(events|outbox:place)"  # the newest events of all jobs
)


@pytest.fixture(scope="module")
def harness(make_harness: MakeHarness) -> Harness:
    """A harness with a retention of a few seconds, and a worker with a temporary folder of its own."""
    made = make_harness(retention_s=RETENTION_S, blob_grace_s=GRACE_S)
    (made.folder / "temporary" / f"{FILM_FOLDERS}of-a-killed-worker").mkdir(parents=True)
    (made.folder / "temporary" / f"{FILM_FOLDERS}of-a-killed-worker" / ".film.part").touch()
    made.start_worker(
        TMPDIR=str(made.folder / "temporary"), FAULT_CONSTANTS="tasks.maintenance.reconciler.SWEEP_EVERY_S=3600"
    )
    return made


@pytest.fixture(scope="module")
def film(harness: Harness) -> str:
    return film_of(harness, SEGMENTS)


def limit_files(pid: int, size: int) -> None:
    """Limit the size of files that this process writes, in bytes."""
    hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))


def keys(server: RedisProcess) -> set[str]:
    return {key.decode() for key in client_of(server).scan_iter()}


def test_disk_full_when_the_film_is_joined(harness: Harness, film: str, longtake: Any) -> None:
    # Given a worker that has deleted what a killed one left, and a job with all its clips
    assert list((harness.folder / "temporary").glob(f"{FILM_FOLDERS}*")) == []
    hold = harness.hold("film claimed", -1)
    job = harness.submit(SEGMENTS)
    pid = hold.wait()
    blobs = harness.blobs.pins(job.id)
    # When
    harness.mark_fault()
    limit_files(pid, FILE_LIMIT)
    hold.release()
    # Then the job fails, its blobs stay pinned, and no temporary file is left
    with pytest.raises(JobFailedError, match="after 3 attempts: MediaError: cannot write the film: File too large"):
        job.wait()
    assert harness.count(job, "film claimed")[-1] == 3
    assert harness.blobs.pins(job.id) == blobs
    assert not list((harness.folder / "temporary").glob(f"{FILM_FOLDERS}*"))
    # When there is space again, and the job is retried
    limit_files(pid, resource.RLIM_INFINITY)
    assert longtake("retry", job.id, settings=harness.settings).returncode == 0
    # Then the film is joined, and nothing is rendered again
    harness.verify(job, film)
    harness.wait_idle()
    done = job.status().film
    assert done
    assert done.size > FILE_LIMIT


def test_finished_jobs_leave_no_keys(harness: Harness, film: str) -> None:
    # Given jobs that are done, and a job that was cancelled while a worker rendered it
    hold = harness.hold("segment stored", 1)
    cancelled = harness.submit()
    hold.wait()
    cancelled.cancel()
    hold.release()
    harness.verify(harness.submit(SEGMENTS), film)
    harness.wait_idle()
    # When their retention has passed, and the sweeper runs
    blobs = open_blob_store(harness.settings.blobs, ttl_s=GRACE_S)
    sweeper = Sweeper(harness.jobs, blobs, retention_s=RETENTION_S)

    def all_gone() -> bool:
        sweeper.sweep()
        return not client_of(harness.broker).exists("longtake:jobs")

    wait_until(all_gone, what="the jobs to be forgotten")
    # Then no blobs, no results and no records are left
    assert list(blobs.owners()) == []
    wait_until(lambda: keys(harness.blob_server) <= {PROBE_KEY}, what="the blobs to be deleted")
    wait_until(
        lambda: not {key for key in keys(harness.broker) if not SHARED.fullmatch(key)}, what="the results to expire"
    )
