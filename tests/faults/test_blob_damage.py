"""Stored bytes that are lost or changed: always noticed, and what is needed is rendered again, and no more."""

from __future__ import annotations

import signal

import pytest

from tasks.errors import JobFailedError
from tasks.jobs.records import START_INDEX
from tests.conftest import wait_until
from tests.faults.conftest import Grounds, film_of
from tests.faults.damage import KINDS, LEAVES_A_TRACE, blobs_of, damage, is_quarantined
from tests.faults.ground import Ground

CLIP_RENDERED = "clip encoded"
FORGETFUL = {"FAULT_CONSTANTS": "tasks.worker.state_cache.CACHED_STATES=0"}


@pytest.fixture(scope="module")
def ground(grounds: Grounds) -> Ground:
    """A ground whose only worker reads every state, as one does that goes on with another's work."""
    made = grounds()
    made.start_worker(**FORGETFUL)
    return made


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", ["frames", "audio"])
def test_a_damaged_state(ground: Ground, film: str, part: str, kind: str) -> None:
    # Given a worker that is about to read the state of segment 1
    held = ground.hold("segment claimed", 2)
    job = ground.submit()
    held.pid()
    spoiled = blobs_of(ground, job, 1)[part]
    # When
    damage(ground, spoiled, kind)
    ground.breaks()
    held.release()
    # Then segment 1 is rendered again, and its clip stands
    ground.verify(job, film, denoised_again=1)
    assert ground.count(job, "segment hydrated") == {0: 1, 1: 2, 2: 1}
    assert ground.count(job, CLIP_RENDERED)[1] == 1
    assert job.status().epoch == 1
    assert is_quarantined(ground, spoiled) == (kind in LEAVES_A_TRACE)
    ground.at_rest()


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_clip(ground: Ground, film: str, kind: str) -> None:
    # Given all clips made, and the film about to be joined
    held = ground.hold("film claimed", START_INDEX)
    job = ground.submit()
    held.pid()
    # When
    damage(ground, blobs_of(ground, job, 1)["clip"], kind)
    ground.breaks()
    held.release()
    # Then it is decoded again from the stored latents, and nothing is rendered
    ground.verify(job, film)
    assert ground.count(job, CLIP_RENDERED) == {0: 1, 1: 2, 2: 1}
    assert job.status().epoch == 1


def test_every_blob_of_a_segment_damaged(ground: Ground, film: str) -> None:
    held = ground.hold("film claimed", START_INDEX)
    job = ground.submit()
    held.pid()
    # When
    for blob_id in blobs_of(ground, job, 1).values():
        damage(ground, blob_id, "flipped")
    ground.breaks()
    held.release()
    # Then that segment is rendered once more, with its clip
    ground.verify(job, film, denoised_again=1)
    assert ground.count(job, "segment hydrated") == {0: 1, 1: 2, 2: 1}


def test_every_state_damaged(ground: Ground, film: str) -> None:
    # Given a worker that is about to read the state of segment 1
    held = ground.hold("segment claimed", 2)
    job = ground.submit()
    held.pid()
    # When neither that one nor the one before is whole
    for index in range(2):
        damage(ground, blobs_of(ground, job, index)["frames"], "expired")
    held.release()
    # Then both are rendered again, from the beginning
    ground.verify(job, film, denoised_again=2)
    assert ground.count(job, "segment hydrated") == {0: 2, 1: 2, 2: 1}


def test_a_lost_clip_of_segment_12_of_50_costs_one_decode(ground: Ground) -> None:
    # Given
    undisturbed = film_of(ground, 50)
    held = ground.hold("film claimed", START_INDEX)
    job = ground.submit(50)
    held.pid()
    # When
    damage(ground, blobs_of(ground, job, 12)["clip"], "expired")
    ground.breaks()
    held.release()
    # Then
    ground.verify(job, undisturbed)
    assert ground.count(job, CLIP_RENDERED) == {index: 2 if index == 12 else 1 for index in range(50)}


def test_a_repair_that_gives_other_bytes(grounds: Grounds) -> None:
    # Given a film of another kind of machine, and a job whose segments were all rendered on ours
    ours, theirs = grounds(), grounds()
    theirs.start_worker(STAND_IN_SALT="1")
    other = film_of(theirs, 3)
    first = ours.start_worker("--only", "segments", "--only", "clips")
    job = ours.submit()
    wait_until(lambda: job.status().clips == 3)
    first.stop(signal.SIGTERM)
    # When the other kind of machine has to repair segment 0
    spoiled = blobs_of(ours, job, 0)
    for part in ("latents", "clip"):
        damage(ours, spoiled[part], "expired")
    ours.breaks()
    ours.start_worker(STAND_IN_SALT="1")
    # Then what followed falls, and the whole film is of that kind
    ours.verify(job, other, denoised_again=3)
    assert ours.count(job, "segment hydrated") == {0: 2, 1: 2, 2: 2}
    ours.at_rest()


def test_a_film_lost_after_the_end_is_joined_again(ground: Ground, film: str) -> None:
    # Given
    job = ground.submit().wait()
    record = job.status().film
    assert record
    damage(ground, record.blob_id, "expired")
    wait_until(lambda: record.blob_id not in ground.blobs)
    # When
    job.retry()
    # Then
    ground.verify(job, film)
    assert ground.count(job, CLIP_RENDERED) == {0: 1, 1: 1, 2: 1}


def test_a_clip_that_kills_its_process(grounds: Grounds) -> None:
    # Given all segments rendered, a clip lost, and a worker that dies of decoding
    ground = grounds()
    first = ground.start_worker("--only", "segments", "--only", "clips")
    job = ground.submit()
    wait_until(lambda: job.status().clips == 3)
    first.stop(signal.SIGTERM)
    damage(ground, blobs_of(ground, job, 1)["clip"], "expired")
    second = ground.start_worker(STAND_IN_DECODE_DIES="1")
    # When / Then it ends its job, not the worker
    with pytest.raises(JobFailedError, match="segment 1 after 3 attempts: the worker died on every attempt"):
        job.wait()
    assert second.process.poll() is None
