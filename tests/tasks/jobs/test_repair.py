"""Repair of a committed segment on a real Redis."""

from __future__ import annotations

import pytest

from tasks.jobs.records import ClipRecord, Handoff
from tasks.jobs.results import Claim, ClipCommit, Refused, RepairCommit
from tasks.jobs.store import JobStore
from tasks.jobs.units import WorkUnit
from tests.tasks.jobs.protocol import JOB, announce, claim, claim_unit, commit, commit_all, create, due, expire, handoff

UNCHANGED = RepairCommit(None)


def repair_claim(jobs: JobStore, index: int) -> Claim:
    return claim_unit(jobs, WorkUnit.repair(index), "repairer")


def commit_repair(
    jobs: JobStore, held: Claim, changed: Handoff | None, *, clip_lost: bool = False
) -> RepairCommit | None:
    made = changed or jobs.handoff(JOB, held.index) or handoff(held.index)
    return jobs.commit_repair(held, made, changed=changed is not None, clip_lost=clip_lost)


def clip_of(committed: RepairCommit | None) -> Claim:
    assert committed
    assert committed.clip
    return committed.clip


@pytest.fixture
def waiting(jobs: JobStore) -> Claim:
    """The claim on segment 3, released until segment 2 is repaired."""
    create(jobs, 4)
    commit_all(jobs, 3)
    held = claim(jobs, 3)
    assert jobs.report_lost(held, WorkUnit.repair(2))
    return held


def test_a_segment_whose_input_is_lost_waits_for_the_repair(jobs: JobStore, waiting: Claim) -> None:
    # Then the claim is lost, and only the repair is due
    assert not jobs.renew(waiting)
    assert not jobs.report_lost(waiting, WorkUnit.repair(1))
    assert due(jobs) == [(WorkUnit.repair(2), "expired")]
    assert jobs.status(JOB).epoch == 1
    # And its message is refused if it is delivered again
    assert announce(jobs, WorkUnit.segment(3)) == 0
    assert jobs.claim(JOB, WorkUnit.segment(3), 99, "w") == Refused("segment waits for repair:2")


def test_a_repair_starts_from_the_handoff_before_it(jobs: JobStore, waiting: Claim) -> None:
    held = repair_claim(jobs, 2)
    assert held.is_repair
    assert held.previous == jobs.handoff(JOB, 1)
    assert held.epoch == 1


def test_a_repair_with_the_same_bytes_keeps_all_commits(jobs: JobStore, waiting: Claim) -> None:
    # Given
    before = jobs.handoffs(JOB)
    held = repair_claim(jobs, 2)
    # When it is committed, and again because the reply was lost
    assert commit_repair(jobs, held, None) == UNCHANGED
    assert commit_repair(jobs, held, None) == UNCHANGED
    # Then
    assert jobs.handoffs(JOB) == before
    assert (jobs.status(JOB).committed, jobs.status(JOB).clips) == (3, 3)
    assert due(jobs) == [(WorkUnit.segment(3), "expired")]
    assert claim(jobs, 3).previous == before[2]


def test_the_holder_of_a_repair_encodes_the_lost_clip(jobs: JobStore, waiting: Claim) -> None:
    # Given
    held = repair_claim(jobs, 2)
    # When
    for _ in range(2):
        clip_claim = clip_of(commit_repair(jobs, held, None, clip_lost=True))
    # Then
    assert clip_claim.unit == WorkUnit.clip(2)
    assert jobs.status(JOB).clips == 2
    assert jobs.commit_clip(clip_claim, ClipRecord(2, "sha256:again", 1, 1)) == ClipCommit(True, None)


def test_a_repair_with_other_bytes_discards_all_later_segments(jobs: JobStore) -> None:
    # Given the holder of segment 3, which reports segment 1 lost, and a repair with another result
    create(jobs, 4)
    commit_all(jobs, 3)
    assert jobs.report_lost(claim(jobs, 3), WorkUnit.repair(1))
    held = repair_claim(jobs, 1)
    changed = handoff(1, worker="other")
    # When
    clip_of(commit_repair(jobs, held, changed))
    # Then
    assert [found.index for found in jobs.handoffs(JOB)] == [0, 1]
    assert jobs.handoff(JOB, 1) == changed
    assert jobs.status(JOB).epoch == 2
    assert set(jobs.clips(JOB)) == {0}
    assert (WorkUnit.segment(2), "unannounced") in due(jobs)
    assert claim(jobs, 2).previous == changed


def test_a_repair_keeps_claims_on_earlier_segments(jobs: JobStore) -> None:
    # Given a claim on the clip of segment 0, while segment 1 is repaired
    create(jobs, 3)
    clip_claim = commit(jobs, claim(jobs, 0))
    assert jobs.commit_segment(claim(jobs, 1), handoff(1))
    assert jobs.report_lost(claim(jobs, 2), WorkUnit.repair(1))
    # When the repair yields other bytes
    clip_of(commit_repair(jobs, repair_claim(jobs, 1), handoff(1, worker="other")))
    # Then the clip can be committed, since no other worker will make it
    assert jobs.renew(clip_claim)
    assert jobs.commit_clip(clip_claim, ClipRecord(0, "sha256:c", 1, 1)) == ClipCommit(True, None)


def test_a_repair_whose_lease_expired_changes_nothing(jobs: JobStore, waiting: Claim) -> None:
    # Given
    late = repair_claim(jobs, 2)
    expire(jobs, late)
    second = repair_claim(jobs, 2)
    # When / Then
    assert commit_repair(jobs, late, handoff(2, worker="late"), clip_lost=True) is None
    assert commit_repair(jobs, second, None) == UNCHANGED
    assert commit_repair(jobs, late, handoff(2, worker="late"), clip_lost=True) is None
    assert [found.worker for found in jobs.handoffs(JOB)] == ["", "", ""]


def test_a_repair_can_wait_for_another_repair(jobs: JobStore, waiting: Claim) -> None:
    # Given
    assert jobs.report_lost(repair_claim(jobs, 2), WorkUnit.repair(1))
    assert due(jobs) == [(WorkUnit.repair(1), "expired")]
    # When
    assert commit_repair(jobs, repair_claim(jobs, 1), None) == UNCHANGED
    # Then
    assert due(jobs) == [(WorkUnit.repair(2), "expired")]
    assert jobs.status(JOB).epoch == 2


def test_a_clip_whose_latents_are_lost_waits_for_the_repair(jobs: JobStore) -> None:
    # Given a claim on the clip of segment 0, whose latents are lost
    create(jobs, 2)
    clip_claim = commit(jobs, claim(jobs, 0))
    expire(jobs, clip_claim)
    assert jobs.report_lost(claim_unit(jobs, WorkUnit.clip(0)), WorkUnit.repair(0))
    # When
    clip_again = clip_of(commit_repair(jobs, repair_claim(jobs, 0), None))
    # Then the holder of the repair commits the clip, and the next segment is due as before
    assert jobs.commit_clip(clip_again, ClipRecord(0, "sha256:c", 1, 1)) == ClipCommit(True, None)
    assert due(jobs) == [(WorkUnit.segment(1), "unpublished")]


def test_a_repair_that_is_not_needed_is_refused(jobs: JobStore) -> None:
    create(jobs, 3)
    commit_all(jobs, 2)
    assert jobs.announce(JOB, WorkUnit.repair(0)) is None
    assert jobs.announce(JOB, WorkUnit.clip(0)) is None
    assert jobs.claim(JOB, WorkUnit.segment(0), 99, "w") == Refused("the cursor is at segment 2")
