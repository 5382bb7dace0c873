"""Clips that are encoded in the background when their process ends, and the limit on how many are queued."""

from __future__ import annotations

import os
import signal
from collections import Counter

import psutil
import pytest

from tasks.client.job import Job
from tasks.jobs.queues import SEGMENTS
from tests.conftest import wait_until
from tests.faults.conftest import MakeHarness, film_of
from tests.faults.harness import Harness
from tests.faults.server_faults import client_of

NO_FILMS = ("--only", "segments", "--only", "clips")
HOURS = 3600.0


@pytest.fixture(scope="module")
def no_expiry(make_harness: MakeHarness) -> Harness:
    """A harness without workers, and with leases that do not expire."""
    return make_harness(lease_s=HOURS)


def two_acknowledged(harness: Harness, job: Job) -> bool:
    """Whether two segments are committed and every message is acknowledged."""
    return not client_of(harness.broker).hlen("unacked") and job.status().committed == 2


def test_a_child_killed_between_the_acknowledgement_and_the_clip(harness: Harness, film: str) -> None:
    # Given a worker that has acknowledged two segments without a clip, and is about to render the third
    clip = harness.hold("clip encoded", 0)
    third = harness.hold("segment claimed", 2)
    job = harness.submit()
    pid = clip.wait()
    assert third.wait() == pid
    assert client_of(harness.broker).hlen("unacked") == 1
    assert (job.status().committed, job.status().clips) == (2, 0)
    # When
    harness.mark_fault()
    os.kill(pid, signal.SIGKILL)
    # Then the clips are decoded again, and no segment is rendered twice
    harness.verify(job, film)
    assert harness.count(job, "segment hydrated") == {0: 1, 1: 1, 2: 1}
    assert harness.count(job, "clip committed") == {0: 1, 1: 1, 2: 1}
    harness.wait_idle()


def test_a_killed_encoder_is_replaced_and_the_film_is_the_same(make_harness: MakeHarness, film: str) -> None:
    # Given a worker that encodes even small clips in a child process, and has encoded one
    harness = make_harness()
    harness.start_worker(FAULT_CONSTANTS="ltx2.media.clip_process.SMALLEST_BYTES=1")
    clip = harness.hold("clip encoded", 0)
    job = harness.submit()
    pid = clip.wait()
    (encoder,) = psutil.Process(pid).children()
    # When
    encoder.kill()
    clip.release()
    # Then the others are made by another one, in the same worker, and each once
    harness.verify(job, film)
    assert harness.count(job, "clip encoded") == {0: 1, 1: 1, 2: 1}
    # When that worker's child is killed, Then its encoder ends, too
    (encoder,) = psutil.Process(pid).children()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not encoder.is_running() or encoder.status() == psutil.STATUS_ZOMBIE, what="no encoder")


def test_a_third_clip_waits_for_a_free_slot(harness: Harness) -> None:
    # Given a worker that cannot finish its first clip
    undisturbed = film_of(harness, 5)
    clip = harness.hold("clip encoded", 0)
    job = harness.submit(5)
    clip.wait()
    # When it has rendered three segments, Then it does not claim the fourth, whose message goes to the shared queue
    wait_until(lambda: client_of(harness.broker).llen(SEGMENTS) == 1, what="the fourth segment in the shared queue")
    assert harness.count(job, "segment committed") == {0: 1, 1: 1, 2: 1}
    assert not harness.count(job, "segment claimed")[3]
    # When the clip is finished, Then the worker continues
    clip.release()
    harness.verify(job, undisturbed)
    harness.wait_idle()


def test_a_warm_shutdown_finishes_queued_clips(no_expiry: Harness) -> None:
    # Given a worker with two queued clips
    worker = no_expiry.start_worker(*NO_FILMS)
    clip = no_expiry.hold("clip encoded", 0)
    job = no_expiry.submit(2)
    clip.wait()
    wait_until(lambda: two_acknowledged(no_expiry, job), what="two segments")
    # When
    worker.shut_down(signal.SIGTERM)
    worker.wait_for_log("Warm shutdown")
    other = no_expiry.start_worker("--only", "films").ready()  # slower than a child that would not wait for clips
    clip.release()
    worker.wait_exit()
    # Then both clips are committed before it exits
    assert job.status().clips == 2
    assert no_expiry.count(job, "clip encoded") == {0: 1, 1: 1}
    assert job.wait().status().film
    other.stop()


@pytest.mark.parametrize(
    ("number", "all_processes", "variables"),
    [
        pytest.param(signal.SIGQUIT, False, {}, id="sigquit"),
        pytest.param(signal.SIGTERM, True, {}, id="sigterm-to-all"),
        pytest.param(signal.SIGTERM, False, {"REMAP_SIGTERM": "SIGQUIT"}, id="remapped-sigterm"),
    ],
)
def test_a_cold_shutdown_releases_queued_clips(
    no_expiry: Harness, number: int, all_processes: bool, variables: dict[str, str]
) -> None:
    # Given a worker with two queued clips, and leases that outlive the test
    worker = no_expiry.start_worker(*NO_FILMS, **variables)
    clip = no_expiry.hold("clip encoded", 0)
    job = no_expiry.submit(2)
    clip.wait()
    wait_until(lambda: two_acknowledged(no_expiry, job), what="two segments")
    # When
    worker.shut_down(number, all_processes=all_processes)
    worker.wait_exit()
    # Then another worker encodes them at once, from the stored latents
    assert job.status().clips == 0
    other = no_expiry.start_worker()
    job.wait()
    assert no_expiry.count(job, "segment hydrated") == {0: 1, 1: 1}
    assert no_expiry.count(job, "clip committed") == Counter({0: 1, 1: 1})
    other.stop()
