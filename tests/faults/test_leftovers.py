"""What a job leaves behind when it ended and its retention passed: nothing."""

from __future__ import annotations

import re

import pytest

from blobstore import open_blob_store
from tasks.garbage import Sweeper
from tests.conftest import RedisProcess, wait_until
from tests.faults.breakage import client_of
from tests.faults.conftest import Grounds, film_of
from tests.faults.ground import SEGMENTS, Ground

RETENTION_S, GRACE_S = 2.0, 1.0
# What belongs to the deployment as a whole.
SHARED = re.compile(
    r"_kombu\.binding(_permanent)?\..+|_kombu\.binding_deadlines"  # which queues there are
    r"|unacked_mutex"  # held while kombu looks for messages to deliver again
    r"|longtake:queue:(segments|clips|films)"  # how many messages were announced, and which were claimed
    r"|longtake:(pulse|reconciler)"  # when a reconciler was here last, and which one works
)


@pytest.fixture(scope="module")
def ground(grounds: Grounds) -> Ground:
    made = grounds(retention_s=RETENTION_S, blob_grace_s=GRACE_S)
    made.start_worker()
    return made


def keys(server: RedisProcess) -> set[str]:
    return {key.decode() for key in client_of(server).scan_iter()}


def test_ended_jobs_leave_nothing(ground: Ground) -> None:
    # Given a job that is done, one whose segment was tried again, and one that was cancelled
    film = film_of(ground, SEGMENTS)
    held = ground.hold("segment stored", 1)
    cancelled = ground.submit()
    held.pid()
    cancelled.cancel()
    held.release()
    ground.verify(ground.submit(), film)
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
