"""Rendering one committed segment again, on a real Redis: what waits for it, what stands, and what falls."""

from __future__ import annotations

import pytest

from tasks.jobs.queues import CLIPS, SEGMENTS
from tasks.jobs.records import SEGMENT_UNIT, Claim, ClipRecord, clip_unit, repair_unit
from tasks.jobs.store import JobStore
from tests.tasks.jobs.test_store import JOB, announce, claim, commit_all, create, due, expire, handoff


def repair_claim(jobs: JobStore, index: int) -> Claim:
    ticket = announce(jobs, repair_unit(index), index, SEGMENTS)
    claimed = jobs.claim_segment(JOB, index, ticket, "mender", SEGMENTS)
    assert isinstance(claimed, Claim), claimed
    return claimed


@pytest.fixture
def waiting(jobs: JobStore) -> Claim:
    """The claim on segment 3, laid down until segment 2 is repaired."""
    create(jobs, 4)
    commit_all(jobs, 3)
    held = claim(jobs, 3)
    assert jobs.damage(held, 2)
    return held


def test_what_misses_its_input_waits_for_the_repair(jobs: JobStore, waiting: Claim) -> None:
    # Then the claim is lost, and only the repair is due
    assert not jobs.renew(waiting)
    assert not jobs.damage(waiting, 1)
    assert due(jobs) == [(repair_unit(2), 2, "expired")]
    assert jobs.status(JOB).epoch == 1
    # and its message, were it to come again, gets nothing
    assert announce(jobs, SEGMENT_UNIT, 3, SEGMENTS) == 0
    assert jobs.claim_segment(JOB, 3, 4, "w", SEGMENTS) == "segment waits for repair:2"


def test_a_repair_continues_the_state_before_it(jobs: JobStore, waiting: Claim) -> None:
    held = repair_claim(jobs, 2)
    assert held.is_repair
    assert held.previous == jobs.handoff(JOB, 1)
    assert held.epoch == 1


def test_with_the_same_bytes_everything_stands(jobs: JobStore, waiting: Claim) -> None:
    # Given
    before = jobs.handoffs(JOB)
    held = repair_claim(jobs, 2)
    # When, and again because the reply was lost
    assert jobs.commit_repair(held, None, clip_lost=False) is True
    assert jobs.commit_repair(held, None, clip_lost=False) is True
    # Then
    assert jobs.handoffs(JOB) == before
    assert (jobs.status(JOB).committed, jobs.status(JOB).clips) == (3, 3)
    assert due(jobs) == [(SEGMENT_UNIT, 3, "expired")]
    assert claim(jobs, 3).previous == before[2]


def test_a_lost_clip_is_made_by_the_holder_of_the_repair(jobs: JobStore, waiting: Claim) -> None:
    # Given
    held = repair_claim(jobs, 2)
    # When
    for _ in range(2):
        clip_claim = jobs.commit_repair(held, None, clip_lost=True)
        assert isinstance(clip_claim, Claim)
    # Then
    assert clip_claim.unit == clip_unit(2)
    assert jobs.status(JOB).clips == 2
    assert jobs.commit_clip(clip_claim, ClipRecord(2, "sha256:again", 1, 1)) == (True, False)


def test_other_bytes_take_back_what_came_after(jobs: JobStore) -> None:
    # Given a segment 1 whose repair, found by the holder of segment 3, comes out differently
    create(jobs, 4)
    commit_all(jobs, 3)
    assert jobs.damage(claim(jobs, 3), 1)
    held = repair_claim(jobs, 1)
    changed = handoff(1, digest="other")
    # When
    assert isinstance(jobs.commit_repair(held, changed, clip_lost=False), Claim)
    # Then
    assert [found.index for found in jobs.handoffs(JOB)] == [0, 1]
    assert jobs.handoff(JOB, 1) == changed
    assert jobs.status(JOB).epoch == 2
    assert set(jobs.clips(JOB)) == {0}
    assert (SEGMENT_UNIT, 2, "unannounced") in due(jobs)
    assert claim(jobs, 2).previous == changed


def test_work_on_what_came_before_goes_on(jobs: JobStore) -> None:
    # Given a clip of segment 0 in the making, while segment 1 is repaired
    create(jobs, 3)
    clip_claim = jobs.commit_segment(claim(jobs, 0), handoff(0))
    assert clip_claim
    assert jobs.commit_segment(claim(jobs, 1), handoff(1))
    assert jobs.damage(claim(jobs, 2), 1)
    # When it comes out as other bytes
    assert isinstance(jobs.commit_repair(repair_claim(jobs, 1), handoff(1, digest="other"), clip_lost=False), Claim)
    # Then the clip is taken, as nobody else would make it
    assert jobs.renew(clip_claim)
    assert jobs.commit_clip(clip_claim, ClipRecord(0, "sha256:c", 1, 1)) == (True, False)


def test_a_late_repair_changes_nothing(jobs: JobStore, waiting: Claim) -> None:
    # Given
    late = repair_claim(jobs, 2)
    expire(jobs, late)
    second = repair_claim(jobs, 2)
    # When / Then
    assert jobs.commit_repair(late, handoff(2, digest="late"), clip_lost=True) is False
    assert jobs.commit_repair(second, None, clip_lost=False) is True
    assert jobs.commit_repair(late, handoff(2, digest="late"), clip_lost=True) is False
    assert [found.digest for found in jobs.handoffs(JOB)] == ["", "", ""]


def test_a_repair_may_wait_for_another(jobs: JobStore, waiting: Claim) -> None:
    # Given
    assert jobs.damage(repair_claim(jobs, 2), 1)
    assert due(jobs) == [(repair_unit(1), 1, "expired")]
    # When
    assert jobs.commit_repair(repair_claim(jobs, 1), None, clip_lost=False) is True
    # Then
    assert due(jobs) == [(repair_unit(2), 2, "expired")]
    assert jobs.status(JOB).epoch == 2


def test_a_clip_waits_for_its_latents(jobs: JobStore) -> None:
    # Given the clip of segment 0 to be rebuilt, and its latents lost
    create(jobs, 2)
    clip_claim = jobs.commit_segment(claim(jobs, 0), handoff(0))
    assert clip_claim
    expire(jobs, clip_claim)
    ticket = announce(jobs, clip_unit(0), 0, CLIPS)
    held = jobs.claim_unit(JOB, clip_unit(0), 0, ticket, "w", CLIPS)
    assert isinstance(held, Claim)
    assert jobs.damage(held, 0)
    # When
    clip_again = jobs.commit_repair(repair_claim(jobs, 0), None, clip_lost=False)
    # Then the repair goes on with the clip, and the next segment was never disturbed
    assert isinstance(clip_again, Claim)
    assert jobs.commit_clip(clip_again, ClipRecord(0, "sha256:c", 1, 1)) == (True, False)
    assert due(jobs) == [(SEGMENT_UNIT, 1, "unannounced")]


def test_a_repair_that_nobody_asked_for_is_refused(jobs: JobStore) -> None:
    create(jobs, 3)
    commit_all(jobs, 2)
    assert jobs.announce(JOB, repair_unit(0), 0, SEGMENTS) is None
    assert jobs.announce(JOB, clip_unit(0), 0, CLIPS) is None
    assert jobs.claim_segment(JOB, 0, 99, "w", SEGMENTS) == "the cursor is at segment 2"
