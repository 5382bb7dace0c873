"""Job records on a real Redis: permitted and refused changes."""

from __future__ import annotations

import pytest

from tasks.errors import JobNotFoundError, JobStateError, RecordError
from tasks.jobs.committed import Committed
from tasks.jobs.connection import connect
from tasks.jobs.keys import EVENTS, check_job_id, job_keys, queue_key
from tasks.jobs.queues import SEGMENTS
from tasks.jobs.records import ClipRecord, Progress
from tasks.jobs.results import (
    Admission,
    AdmissionOutcome,
    Claim,
    ClipCommit,
    CreateOutcome,
    Creation,
    NotChained,
    Refused,
    Released,
    ReleaseOutcome,
)
from tasks.jobs.store import JobStore
from tasks.jobs.units import WorkUnit
from tasks.settings import Settings
from tasks.spec.loader import check_spec
from tests.tasks.conftest import ticket_of
from tests.tasks.jobs.protocol import (
    FILM,
    JOB,
    announce,
    claim,
    claim_unit,
    commit,
    commit_all,
    create,
    due,
    expire,
    handoff,
)


def test_a_job_changes_from_queued_to_running_to_done(jobs: JobStore) -> None:
    # Given
    create(jobs)
    assert jobs.status(JOB).state == "queued"
    # When
    commit_all(jobs, 2)
    # Then
    assert jobs.status(JOB).state == "running"
    assert (jobs.status(JOB).committed, jobs.status(JOB).clips) == (2, 2)
    # When
    assert jobs.commit_film(claim_unit(jobs, WorkUnit.film()), FILM)
    # Then
    assert jobs.status(JOB).state == "done"
    assert jobs.status(JOB).film == FILM
    assert jobs.active() == []


def test_a_job_id_cannot_be_created_twice(jobs: JobStore) -> None:
    create(jobs)
    spec = check_spec({"segments": [{"prompt": "another"}]})
    assert jobs.create(JOB, spec, model="tiny") == Creation(CreateOutcome.TAKEN, JOB)
    held = claim(jobs, 0)
    assert held.segment
    assert (held.head.title, held.segment.prompt, held.next_prompt) == ("harbour", "0", "1")


@pytest.mark.parametrize("job_id", ["", "../../x", "A" * 16, "a:b", "a" * 41, "a\n", None, 7, "*"])
def test_invalid_job_ids_are_rejected(job_id: object) -> None:
    with pytest.raises(JobNotFoundError):
        check_job_id(job_id)


def test_a_claimed_segment_cannot_be_claimed_again(jobs: JobStore) -> None:
    # Given
    create(jobs)
    ticket = ticket_of(jobs.announce(JOB, WorkUnit.segment(0)))
    assert isinstance(jobs.claim(JOB, WorkUnit.segment(0), ticket, "first"), Claim)
    # When the message is delivered again
    again = jobs.claim(JOB, WorkUnit.segment(0), ticket, "second")
    # Then
    assert again == Refused("segment 0 is held by first")
    assert jobs.announce(JOB, WorkUnit.segment(0)) is None


def test_a_claim_repeated_after_a_lost_reply_is_granted(jobs: JobStore) -> None:
    create(jobs)
    held = claim(jobs, 0)
    keys = [*job_keys(JOB, "record", "units", "spec", "handoffs"), queue_key(SEGMENTS)]
    assert jobs._run("claim", [*keys, *job_keys(JOB, "takes")], "segment", 0, 1, held.token, 2000, "w")[0] == b"run"


def test_an_old_ticket_is_refused(jobs: JobStore) -> None:
    # Given a message that was replaced by a newer one
    create(jobs)
    old = ticket_of(jobs.announce(JOB, WorkUnit.segment(0)))
    new = ticket_of(jobs.announce(JOB, WorkUnit.segment(0), seen=old))
    # When / Then
    assert new > old
    assert jobs.claim(JOB, WorkUnit.segment(0), old, "w") == Refused("a newer message has replaced this one")
    assert isinstance(jobs.claim(JOB, WorkUnit.segment(0), new, "w"), Claim)


def test_a_segment_ahead_of_the_cursor_is_refused(jobs: JobStore) -> None:
    create(jobs)
    assert jobs.announce(JOB, WorkUnit.segment(1)) is None
    assert jobs.claim(JOB, WorkUnit.segment(1), 1, "w") == Refused("the cursor is at segment 0")


def test_fences_increase_and_only_the_current_holder_commits(jobs: JobStore) -> None:
    # Given a claim whose lease expired, and a second claim
    create(jobs)
    late = claim(jobs, 0, "late")
    expire(jobs, late)
    second = claim(jobs, 0, "second")
    assert second.fence > late.fence
    # When the first holder continues, Then it is refused
    assert not jobs.renew(late)
    assert jobs.commit_segment(late, handoff(0, worker="late")) is None
    # When the second holder commits, and again because the reply was lost, Then its handoff is stored once
    first = jobs.commit_segment(second, handoff(0, worker="second"))
    again = jobs.commit_segment(second, handoff(0, worker="second"))
    assert first
    assert again
    assert first.clip == again.clip
    found = jobs.handoff(JOB, 0)
    assert found
    assert found.worker == "second"
    assert jobs.status(JOB).committed == 1


def test_a_repeated_message_of_a_committed_segment_is_refused(jobs: JobStore) -> None:
    # Given a commit whose worker died before it published the next message
    create(jobs)
    ticket = ticket_of(jobs.announce(JOB, WorkUnit.segment(0)))
    held = jobs.claim(JOB, WorkUnit.segment(0), ticket, "w")
    assert isinstance(held, Claim)
    assert jobs.commit_segment(held, handoff(0))
    # When its message is delivered again, Then it is refused
    assert isinstance(jobs.claim(JOB, WorkUnit.segment(0), ticket, "w"), Refused)
    # And the next segment is due: the commit announced it, and the reconciler publishes it
    assert due(jobs) == [(WorkUnit.segment(1), "unpublished")]


def test_a_cancelled_job_accepts_no_commit(jobs: JobStore) -> None:
    # Given
    create(jobs)
    held = claim(jobs, 0)
    # When
    assert jobs.stop(JOB, "cancelled", "enough") == "running"
    # Then
    assert not jobs.renew(held)
    assert jobs.commit_segment(held, handoff(0)) is None
    assert jobs.status(JOB).state == "cancelled"
    assert jobs.announce(JOB, WorkUnit.segment(0)) is None
    assert jobs.stop(JOB, "cancelled", "again") == "cancelled"


def test_a_survey_lists_units_that_may_have_no_message(jobs: JobStore) -> None:
    create(jobs, 1)
    assert due(jobs) == [(WorkUnit.segment(0), "unannounced")]
    ticket = ticket_of(jobs.announce(JOB, WorkUnit.segment(0)))
    assert [why for _, why in due(jobs)] == ["unpublished"]
    jobs.chained(JOB, 0)
    assert [why for _, why in due(jobs)] == ["waiting"]
    held = jobs.claim(JOB, WorkUnit.segment(0), ticket, "w")
    assert isinstance(held, Claim)
    assert jobs.survey(JOB) == []
    clip_claim = commit(jobs, held)
    assert jobs.survey(JOB) == []
    expire(jobs, clip_claim)
    committed = jobs.commit_clip(claim_unit(jobs, WorkUnit.clip(0)), ClipRecord(0, "sha256:c", 1, 1))
    assert committed.film
    assert due(jobs) == [(WorkUnit.film(), "waiting")]


def test_a_clip_whose_lease_expired_changes_nothing(jobs: JobStore) -> None:
    # Given a claim on a clip whose lease expired, and a second claim on it
    create(jobs, 1)
    late = commit(jobs, claim(jobs, 0))
    expire(jobs, late)
    second = claim_unit(jobs, WorkUnit.clip(0))
    # When
    assert jobs.commit_clip(late, ClipRecord(0, "sha256:late", 1, 1)) == ClipCommit(False, None)
    committed = jobs.commit_clip(second, ClipRecord(0, "sha256:right", 1, 1))
    assert committed.accepted
    assert committed.film
    assert jobs.commit_clip(late, ClipRecord(0, "sha256:late", 1, 1)) == ClipCommit(False, None)
    assert jobs.commit_clip(late, ClipRecord(0, "sha256:right", 1, 1)) == ClipCommit(False, None)
    # Then
    assert jobs.clips(JOB)[0].blob_id == "sha256:right"


def test_lost_clips_are_made_again_before_the_film(jobs: JobStore) -> None:
    # Given
    create(jobs, 3)
    commit_all(jobs, 3)
    held = claim_unit(jobs, WorkUnit.film())
    # When
    assert jobs.report_lost_clips(held, [0, 2])
    # Then
    assert not jobs.commit_film(held, FILM)
    assert due(jobs) == [(WorkUnit.clip(0), "expired"), (WorkUnit.clip(2), "expired")]
    assert (jobs.status(JOB).epoch, jobs.status(JOB).clips) == (1, 1)
    assert announce(jobs, WorkUnit.film()) == 0


def test_progress_is_cleared_by_the_commit(jobs: JobStore) -> None:
    create(jobs)
    held = claim(jobs, 0)
    assert jobs.renew(held, progress=Progress(0, 3, 8, 0.5))
    assert jobs.status(JOB).progress == Progress(0, 3, 8, 0.5)
    jobs.commit_segment(held, handoff(0))
    assert jobs.status(JOB).progress is None


def test_only_ended_jobs_can_be_deleted_and_leave_no_key(jobs: JobStore, settings: Settings) -> None:
    create(jobs, 1)
    with pytest.raises(JobStateError):
        jobs.delete(JOB)
    jobs.commit_segment(claim(jobs, 0), handoff(0))
    jobs.stop(JOB, "cancelled", "")
    assert jobs.ended_for(-1) == [JOB]
    assert jobs.ended_for(60) == []
    jobs.delete(JOB)
    left = {key for key in connect(settings.redis_url).keys("*") if b":queue:" not in key}
    assert left == {EVENTS.encode()}
    with pytest.raises(JobNotFoundError):
        jobs.status(JOB)


def test_an_unknown_job_is_an_error(jobs: JobStore) -> None:
    for call in (jobs.status, lambda job: jobs.stop(job, "cancelled", "")):
        with pytest.raises(JobNotFoundError, match="longtake list"):
            call("0000")
    with pytest.raises(JobNotFoundError):
        jobs.head("0000")
    assert jobs.claim("0000", WorkUnit.segment(0), 1, "w") == Refused("there is no such job")


def test_the_first_segment_continues_an_imported_handoff(jobs: JobStore) -> None:
    spec = check_spec({"segments": [{"prompt": "a"}]})
    imported = handoff(-1, worker="elsewhere")
    jobs.create(JOB, spec, model="tiny", committed=Committed(imported))
    assert jobs.admit(None).outcome == "admitted"
    assert claim(jobs, 0).previous == imported
    assert jobs.handoffs(JOB) == []


def test_a_revived_job_continues_at_the_failed_segment(jobs: JobStore) -> None:
    # Given a job that failed at its second segment
    create(jobs)
    assert jobs.commit_segment(claim(jobs, 0), handoff(0))
    assert jobs.release(claim(jobs, 1), "RuntimeError: no", final=True) == Released(ReleaseOutcome.FAILED)
    assert jobs.active() == []
    # When
    assert jobs.revive(JOB, "failed") == "failed"
    # Then
    status = jobs.status(JOB)
    assert (status.state, status.committed, status.reason, status.attempts) == ("running", 1, None, None)
    assert jobs.active() == [JOB]
    assert jobs.ended_for(-1) == []
    assert jobs.admit(None) == Admission(AdmissionOutcome.ADMITTED, JOB, 0)
    assert (WorkUnit.segment(1), "unannounced") in due(jobs)
    assert jobs.commit_segment(claim(jobs, 1), handoff(1))


def test_a_revived_job_makes_the_clip_that_was_claimed_when_it_failed(jobs: JobStore) -> None:
    # Given a job that fails at its second segment while another worker holds the clip of the first
    create(jobs)
    clip_claim = commit(jobs, claim(jobs, 0))
    assert jobs.release(claim(jobs, 1), "RuntimeError: no", final=True) == Released(ReleaseOutcome.FAILED)
    assert jobs.commit_clip(clip_claim, ClipRecord(0, "sha256:c", 1, 1)) == ClipCommit(False, None)
    # When
    jobs.revive(JOB, "failed")
    jobs.admit(None)
    # Then
    assert due(jobs) == [(WorkUnit.clip(0), "expired"), (WorkUnit.segment(1), "unannounced")]
    again = claim_unit(jobs, WorkUnit.clip(0))
    assert jobs.commit_clip(again, ClipRecord(0, "sha256:c", 1, 1)) == ClipCommit(True, None)


def test_a_revived_job_that_never_started_is_queued(jobs: JobStore) -> None:
    # Given
    create(jobs)
    jobs.stop(JOB, "failed", "no space")
    # When
    jobs.revive(JOB, "failed")
    jobs.admit(None)
    # Then
    assert jobs.status(JOB).state == "queued"
    claim(jobs, 0)
    assert jobs.status(JOB).state == "running"
    assert jobs.status(JOB).started_at is not None


def test_a_job_in_another_state_is_not_revived(jobs: JobStore) -> None:
    with pytest.raises(JobNotFoundError):
        jobs.revive(JOB, "failed")
    create(jobs)
    assert jobs.revive(JOB, "failed") == "queued"
    jobs.stop(JOB, "cancelled", "")
    assert jobs.revive(JOB, "failed") == "cancelled"
    assert jobs.active() == []


def test_a_repeated_message_chains_a_next_segment_that_was_not_announced(jobs: JobStore) -> None:
    # Given a segment that was committed while its job was paused
    create(jobs)
    ticket = announce(jobs, WorkUnit.segment(0))
    held = jobs.claim(JOB, WorkUnit.segment(0), ticket, "w")
    assert isinstance(held, Claim)
    jobs.pause(JOB)
    committed = jobs.commit_segment(held, handoff(0))
    assert committed
    assert committed.following is None
    jobs.resume(JOB)
    # When its message is delivered again, Then the next segment is due
    assert jobs.claim(JOB, WorkUnit.segment(0), ticket, "w") == NotChained(1)


@pytest.mark.parametrize(("key", "field"), [("handoffs", "0"), ("spec", "job"), ("spec", "1")])
def test_a_damaged_record_fails_its_job_once(jobs: JobStore, settings: Settings, key: str, field: str) -> None:
    # Given a job at its second segment, with a damaged record that the claim must read
    create(jobs)
    commit(jobs, claim(jobs, 0))
    ticket = announce(jobs, WorkUnit.segment(1))
    connect(settings.redis_url).hset(job_keys(JOB, key)[0], field, b"\xc1garbage")
    # When
    with pytest.raises(RecordError, match="damaged"):
        jobs.claim(JOB, WorkUnit.segment(1), ticket, "w")
    # Then
    status = jobs.status(JOB)
    assert (status.state, status.failed_segment, status.attempts) == ("failed", 1, 1)
    assert "damaged" in str(status.reason)
