"""Clips in the making beside the next segment: what becomes of them when their process ends, and how many there are."""

from __future__ import annotations

import os
import signal
from collections import Counter

import pytest

from tasks.jobs.queues import SEGMENTS
from tests.conftest import wait_until
from tests.faults.breakage import client_of
from tests.faults.conftest import Grounds, film_of
from tests.faults.ground import Ground

ALONE = ("--only", "segments", "--only", "clips")
HOURS = 3600.0


@pytest.fixture(scope="module")
def quiet(grounds: Grounds) -> Ground:
    """A ground without workers, on which no lease ends."""
    return grounds(lease_s=HOURS)


def test_a_child_killed_between_the_acknowledgement_and_the_clip(ground: Ground, film: str) -> None:
    # Given a worker that has acknowledged two segments and made no clip, and is about to render the third
    clip = ground.hold("clip encoded", 0)
    third = ground.hold("segment claimed", 2)
    job = ground.submit()
    pid = clip.pid()
    assert third.pid() == pid
    assert client_of(ground.broker).hlen("unacked") == 1
    assert (job.status().committed, job.status().clips) == (2, 0)
    # When
    ground.breaks()
    os.kill(pid, signal.SIGKILL)
    # Then the clips are decoded again, and nothing is rendered twice
    ground.verify(job, film)
    assert ground.count(job, "segment hydrated") == {0: 1, 1: 1, 2: 1}
    assert ground.count(job, "clip committed") == {0: 1, 1: 1, 2: 1}
    ground.at_rest()


def test_a_third_clip_waits_for_room(ground: Ground) -> None:
    # Given a worker that cannot finish its first clip
    undisturbed = film_of(ground, 5)
    clip = ground.hold("clip encoded", 0)
    job = ground.submit(5)
    clip.pid()
    # When it has rendered three segments, Then it does not take the fourth, which is soon offered to everybody
    wait_until(lambda: client_of(ground.broker).llen(SEGMENTS) == 1, what="the fourth segment in the shared queue")
    assert ground.count(job, "segment committed") == {0: 1, 1: 1, 2: 1}
    assert not ground.count(job, "segment claimed")[3]
    # When there is room, Then it goes on
    clip.release()
    ground.verify(job, undisturbed)
    ground.at_rest()


def test_a_warm_shutdown_finishes_the_clips_in_hand(quiet: Ground) -> None:
    # Given a worker with two clips in hand
    worker = quiet.start_worker(*ALONE)
    clip = quiet.hold("clip encoded", 0)
    job = quiet.submit(2)
    clip.pid()
    wait_until(lambda: not client_of(quiet.broker).hlen("unacked") and job.status().committed == 2, what="two segments")
    # When
    worker.shut_down(signal.SIGTERM)
    worker.says("Warm shutdown")
    other = quiet.start_worker("--only", "films").ready()  # takes longer than a child that waits for nothing
    clip.release()
    worker.gone()
    # Then both are there when it has ended
    assert job.status().clips == 2
    assert quiet.count(job, "clip encoded") == {0: 1, 1: 1}
    assert job.wait().status().film
    other.stop()


@pytest.mark.parametrize(
    ("number", "everyone", "variables"),
    [
        pytest.param(signal.SIGQUIT, False, {}, id="sigquit"),
        pytest.param(signal.SIGTERM, True, {}, id="sigterm-to-all"),
        pytest.param(signal.SIGTERM, False, {"REMAP_SIGTERM": "SIGQUIT"}, id="remapped-sigterm"),
    ],
)
def test_a_shutdown_that_cannot_wait_lays_the_clips_down(
    quiet: Ground, number: int, everyone: bool, variables: dict[str, str]
) -> None:
    # Given the same, and leases that outlive the test
    worker = quiet.start_worker(*ALONE, **variables)
    clip = quiet.hold("clip encoded", 0)
    job = quiet.submit(2)
    clip.pid()
    wait_until(lambda: not client_of(quiet.broker).hlen("unacked") and job.status().committed == 2, what="two segments")
    # When
    worker.shut_down(number, everyone=everyone)
    worker.gone()
    # Then another one makes them at once, from the stored latents
    assert job.status().clips == 0
    other = quiet.start_worker()
    job.wait()
    assert quiet.count(job, "segment hydrated") == {0: 1, 1: 1}
    assert quiet.count(job, "clip committed") == Counter({0: 1, 1: 1})
    other.stop()
