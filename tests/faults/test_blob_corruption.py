"""Damaged and deleted blobs: always detected, and only the segments that are needed are rendered again."""

from __future__ import annotations

import signal

import pytest

from tasks.errors import JobFailedError
from tasks.jobs.units import START_INDEX
from tests.conftest import wait_until
from tests.faults.blob_faults import KINDS, QUARANTINED_KINDS, damage, is_quarantined, segment_blobs
from tests.faults.conftest import MakeHarness, film_of
from tests.faults.harness import Harness

NO_STATE_CACHE = {"FAULT_CONSTANTS": "tasks.worker.state_cache.CACHED_STATES=0"}


@pytest.fixture(scope="module")
def harness(make_harness: MakeHarness) -> Harness:
    """A harness whose only worker fetches every state, as a worker does that continues another worker's job."""
    made = make_harness()
    made.start_worker(**NO_STATE_CACHE)
    return made


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", ["frames", "audio"])
def test_a_damaged_state(harness: Harness, film: str, part: str, kind: str) -> None:
    # Given a worker that is about to fetch the state of segment 1
    hold = harness.hold("segment claimed", 2)
    job = harness.submit()
    hold.wait()
    damaged = segment_blobs(harness, job, 1)[part]
    # When
    damage(harness, damaged, kind)
    harness.mark_fault()
    hold.release()
    # Then segment 1 is rendered again, and its clip is kept
    harness.verify(job, film, denoised_again=1)
    assert harness.count(job, "segment hydrated") == {0: 1, 1: 2, 2: 1}
    assert harness.count(job, "clip encoded")[1] == 1
    assert job.status().epoch == 1
    assert is_quarantined(harness, damaged) == (kind in QUARANTINED_KINDS)
    harness.wait_idle()


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_clip(harness: Harness, film: str, kind: str) -> None:
    # Given all clips, and a worker that is about to join the film
    hold = harness.hold("film claimed", START_INDEX)
    job = harness.submit()
    hold.wait()
    # When
    damage(harness, segment_blobs(harness, job, 1)["clip"], kind)
    harness.mark_fault()
    hold.release()
    # Then it is decoded again from the stored latents, and no segment is rendered
    harness.verify(job, film)
    assert harness.count(job, "clip encoded") == {0: 1, 1: 2, 2: 1}
    assert job.status().epoch == 1


def test_every_blob_of_a_segment_damaged(harness: Harness, film: str) -> None:
    # Given a worker that is about to join the film
    hold = harness.hold("film claimed", START_INDEX)
    job = harness.submit()
    hold.wait()
    # When
    for blob_id in segment_blobs(harness, job, 1).values():
        damage(harness, blob_id, "flipped")
    harness.mark_fault()
    hold.release()
    # Then that segment is rendered again, with its clip
    harness.verify(job, film, denoised_again=1)
    assert harness.count(job, "segment hydrated") == {0: 1, 1: 2, 2: 1}


def test_every_state_damaged(harness: Harness, film: str) -> None:
    # Given a worker that is about to fetch the state of segment 1
    hold = harness.hold("segment claimed", 2)
    job = harness.submit()
    hold.wait()
    # When that state and the one before are lost
    for index in range(2):
        damage(harness, segment_blobs(harness, job, index)["frames"], "expired")
    hold.release()
    # Then both segments are rendered again, from the beginning
    harness.verify(job, film, denoised_again=2)
    assert harness.count(job, "segment hydrated") == {0: 2, 1: 2, 2: 1}


@pytest.mark.faults
def test_a_lost_clip_of_segment_12_of_50_costs_one_decode(harness: Harness) -> None:
    # Given all clips, and a worker that is about to join the film
    undisturbed = film_of(harness, 50)
    hold = harness.hold("film claimed", START_INDEX)
    job = harness.submit(50)
    hold.wait()
    # When
    damage(harness, segment_blobs(harness, job, 12)["clip"], "expired")
    harness.mark_fault()
    hold.release()
    # Then only that clip is decoded again
    harness.verify(job, undisturbed)
    assert harness.count(job, "clip encoded") == {index: 2 if index == 12 else 1 for index in range(50)}


def test_a_repair_that_produces_other_bytes(make_harness: MakeHarness) -> None:
    # Given the film of another kind of machine, and a job whose segments were all rendered on the first kind
    harness, other = make_harness(), make_harness()
    other.start_worker(STAND_IN_SALT="1")
    other_film = film_of(other, 3)
    first = harness.start_worker("--only", "segments", "--only", "clips")
    job = harness.submit()
    wait_until(lambda: job.status().clips == 3)
    first.stop(signal.SIGTERM)
    # When the other kind of machine has to repair segment 0
    blobs = segment_blobs(harness, job, 0)
    for part in ("latents", "clip"):
        damage(harness, blobs[part], "expired")
    harness.mark_fault()
    harness.start_worker(STAND_IN_SALT="1")
    # Then the later segments are rendered again too, and the whole film is of that kind
    harness.verify(job, other_film, denoised_again=3)
    assert harness.count(job, "segment hydrated") == {0: 2, 1: 2, 2: 2}
    harness.wait_idle()


def test_a_film_lost_after_its_job_finished(harness: Harness, film: str) -> None:
    # Given a finished job whose film is lost
    job = harness.submit().wait()
    record = job.status().film
    assert record
    damage(harness, record.blob_id, "expired")
    wait_until(lambda: record.blob_id not in harness.blobs)
    # When
    job.retry()
    # Then the film is joined again from the stored clips
    harness.verify(job, film)
    assert harness.count(job, "clip encoded") == {0: 1, 1: 1, 2: 1}


def test_a_clip_that_kills_its_process(make_harness: MakeHarness) -> None:
    # Given all segments rendered, a clip lost, and a worker whose child dies when it decodes
    harness = make_harness()
    first = harness.start_worker("--only", "segments", "--only", "clips")
    job = harness.submit()
    wait_until(lambda: job.status().clips == 3)
    first.stop(signal.SIGTERM)
    damage(harness, segment_blobs(harness, job, 1)["clip"], "expired")
    second = harness.start_worker(STAND_IN_KILL_IN_DECODE="1")
    # When / Then the job fails, and the worker survives
    with pytest.raises(JobFailedError, match="segment 1 after 3 attempts: its process died"):
        job.wait()
    assert second.process.poll() is None
