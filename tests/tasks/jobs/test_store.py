"""Job records on a real Redis: who may do what, and what is refused."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tasks.errors import JobNotFoundError, JobStateError, MessageError
from tasks.jobs.connection import connect
from tasks.jobs.keys import check_job_id, job_keys, queue_key
from tasks.jobs.queues import CLIPS, FILMS, SEGMENTS
from tasks.jobs.records import FILM_UNIT, SEGMENT_UNIT, Claim, ClipRecord, FilmRecord, Handoff, Progress, clip_unit
from tasks.jobs.store import JobStore
from tasks.settings import Settings
from tasks.spec.loader import check_spec
from tests.tasks.conftest import ticket_of

JOB = "aaaa1111"
FILM = FilmRecord("sha256:f", 9, "f", 96, 64, "24", 50, 2.0, 24000, 48000)


def handoff(index: int, **changes: Any) -> Handoff:
    return Handoff(**{"index": index, "state": {"payload": {}}, "digest": "", "blobs": [], **changes})


def create(jobs: JobStore, segments: int = 2, job: str = JOB) -> None:
    spec = check_spec({"title": "harbour", "segments": [{"prompt": str(i)} for i in range(segments)]})
    assert jobs.create(job, spec, model="tiny")
    assert jobs.admit(None) == ("admitted", job, 0)


def announce(jobs: JobStore, unit: str, index: int, queue: str) -> int:
    """The ticket of the message that is due now."""
    seen = {need.unit: need.ticket for need in jobs.survey(JOB)}
    return ticket_of(jobs.announce(JOB, unit, index, queue, seen=seen.get(unit, 0)))


def claim(jobs: JobStore, index: int, worker: str = "w") -> Claim:
    ticket = announce(jobs, SEGMENT_UNIT, index, SEGMENTS)
    jobs.chained(JOB, index)
    claimed = jobs.claim_segment(JOB, index, ticket, worker, SEGMENTS)
    assert isinstance(claimed, Claim), claimed
    return claimed


def commit_all(jobs: JobStore, segments: int) -> None:
    for index in range(segments):
        clip_claim = jobs.commit_segment(claim(jobs, index), handoff(index))
        assert clip_claim
        accepted, complete = jobs.commit_clip(clip_claim, ClipRecord(index, "sha256:c", 1, 1))
        assert accepted
        assert complete == (index + 1 == jobs.status(JOB).segments)


def test_a_job_goes_from_queued_to_done(jobs: JobStore) -> None:
    # Given
    create(jobs)
    assert jobs.status(JOB).state == "queued"
    # When
    commit_all(jobs, 2)
    # Then
    assert jobs.status(JOB).state == "running"
    assert (jobs.status(JOB).committed, jobs.status(JOB).clips) == (2, 2)
    # When
    ticket = ticket_of(jobs.announce(JOB, FILM_UNIT, -1, FILMS))
    film_claim = jobs.claim_unit(JOB, FILM_UNIT, -1, ticket, "w", FILMS)
    assert isinstance(film_claim, Claim)
    assert jobs.commit_film(film_claim, FILM)
    # Then
    assert jobs.status(JOB).state == "done"
    assert jobs.status(JOB).film == FILM
    assert jobs.active() == []


def test_an_id_is_taken_once(jobs: JobStore) -> None:
    create(jobs)
    spec = check_spec({"segments": [{"prompt": "another"}]})
    assert not jobs.create(JOB, spec, model="tiny")
    assert [jobs.segment_plan(JOB, 0)[1].prompt, jobs.segment_plan(JOB, 0)[2]] == ["0", "1"]


@pytest.mark.parametrize("job_id", ["", "../../x", "A" * 16, "a:b", "a" * 41, "a\n", None, 7, "*"])
def test_an_id_cannot_reach_outside_its_keys(job_id: object) -> None:
    with pytest.raises(JobNotFoundError):
        check_job_id(job_id)


def test_a_held_segment_is_not_given_twice(jobs: JobStore) -> None:
    # Given
    create(jobs)
    ticket = ticket_of(jobs.announce(JOB, SEGMENT_UNIT, 0, SEGMENTS))
    assert isinstance(jobs.claim_segment(JOB, 0, ticket, "first", SEGMENTS), Claim)
    # When the message comes again
    again = jobs.claim_segment(JOB, 0, ticket, "second", SEGMENTS)
    # Then
    assert again == "segment 0 is held by first"
    assert jobs.announce(JOB, SEGMENT_UNIT, 0, SEGMENTS) is None


def test_a_holder_that_asks_again_because_the_reply_was_lost_gets_its_claim(jobs: JobStore) -> None:
    create(jobs)
    held = claim(jobs, 0)
    keys = [*job_keys(JOB, "record", "units", "handoffs"), queue_key(SEGMENTS)]
    assert jobs._run("claim_segment", keys, 0, 1, held.token, 2000, "w")[0] == b"run"


def test_an_old_ticket_is_forgotten(jobs: JobStore) -> None:
    # Given a message that was replaced by a newer one
    create(jobs)
    old = ticket_of(jobs.announce(JOB, SEGMENT_UNIT, 0, SEGMENTS))
    new = ticket_of(jobs.announce(JOB, SEGMENT_UNIT, 0, SEGMENTS, seen=old))
    # When / Then
    assert new > old
    assert jobs.claim_segment(JOB, 0, old, "w", SEGMENTS) == "a newer message has replaced this one"
    assert isinstance(jobs.claim_segment(JOB, 0, new, "w", SEGMENTS), Claim)


def test_a_segment_ahead_of_the_cursor_waits_its_turn(jobs: JobStore) -> None:
    create(jobs)
    assert jobs.announce(JOB, SEGMENT_UNIT, 1, SEGMENTS) is None
    assert jobs.claim_segment(JOB, 1, 1, "w", SEGMENTS) == "the cursor is at segment 0"


def test_fences_only_rise_and_only_the_holder_commits(jobs: JobStore) -> None:
    # Given a claim whose lease expired, and a second one
    create(jobs)
    late = claim(jobs, 0, "late")
    jobs_with_short_memory = expire(jobs, late)
    second = claim(jobs_with_short_memory, 0, "second")
    assert second.fence > late.fence
    # When the late one comes back
    assert not jobs.renew(late)
    assert jobs.commit_segment(late, handoff(0, worker="late")) is None
    # Then the second one's commit is the one that counts, also when its reply was lost and it asks again
    assert jobs.commit_segment(second, handoff(0, worker="second"))
    assert jobs.commit_segment(second, handoff(0, worker="second"))
    found = jobs.handoff(JOB, 0)
    assert found
    assert found.worker == "second"
    assert jobs.status(JOB).committed == 1


def due(jobs: JobStore) -> list[tuple[str, int, str]]:
    return [(need.unit, need.index, need.why) for need in jobs.survey(JOB)]


def expire(jobs: JobStore, held: Claim) -> JobStore:
    """Let the lease of `held` end by letting Redis' clock pass it."""
    jobs._lease_ms = 1
    assert jobs.renew(held)
    jobs._lease_ms = 2000
    time.sleep(0.005)
    assert (held.unit, held.index, "expired") in due(jobs)
    return jobs


def test_a_repeated_message_of_a_committed_segment_chains_only_when_nothing_else_did(jobs: JobStore) -> None:
    # Given a commit whose worker died before it published the next message
    create(jobs)
    ticket = ticket_of(jobs.announce(JOB, SEGMENT_UNIT, 0, SEGMENTS))
    held = jobs.claim_segment(JOB, 0, ticket, "w", SEGMENTS)
    assert isinstance(held, Claim)
    assert jobs.commit_segment(held, handoff(0))
    # When its message comes again
    assert jobs.claim_segment(JOB, 0, ticket, "w", SEGMENTS) == 1
    # Then, once the next was published, it is forgotten
    jobs.announce(JOB, SEGMENT_UNIT, 1, SEGMENTS)
    jobs.chained(JOB, 1)
    assert isinstance(jobs.claim_segment(JOB, 0, ticket, "w", SEGMENTS), str)


def test_nothing_is_committed_after_a_cancel(jobs: JobStore) -> None:
    # Given
    create(jobs)
    held = claim(jobs, 0)
    # When
    assert jobs.stop(JOB, "cancelled", "enough") == "running"
    # Then
    assert not jobs.renew(held)
    assert jobs.commit_segment(held, handoff(0)) is None
    assert jobs.status(JOB).state == "cancelled"
    assert jobs.announce(JOB, SEGMENT_UNIT, 0, SEGMENTS) is None
    assert jobs.stop(JOB, "cancelled", "again") == "cancelled"


def test_failed_attempts_are_counted_and_end_the_job(jobs: JobStore) -> None:
    create(jobs)
    for attempt in (1, 2, 3):
        held = claim(jobs, 0)
        assert jobs.give_up(held, "RuntimeError: no")[0] == ("retry" if attempt < 3 else "failed")
    status = jobs.status(JOB)
    assert (status.state, status.reason, status.failed_segment, status.attempts) == ("failed", "RuntimeError: no", 0, 3)


def test_shutdowns_are_not_counted(jobs: JobStore) -> None:
    create(jobs)
    for _ in range(5):
        assert jobs.give_up(claim(jobs, 0))[0] == "retry"
    assert jobs.status(JOB).state == "queued" or jobs.status(JOB).state == "running"


def test_dying_inside_the_engine_is_counted_and_elsewhere_is_not(jobs: JobStore) -> None:
    create(jobs)
    # Given five deaths outside the engine
    for _ in range(5):
        expire(jobs, claim(jobs, 0))
    # When it dies inside three times
    for attempt in (1, 2, 3):
        held = claim(jobs, 0, "poisoned")
        assert jobs.renew(held, engine=True)
        if attempt < 3:
            expire(jobs, held)
    jobs._lease_ms = 1
    assert jobs.renew(held)
    time.sleep(0.005)
    assert jobs.survey(JOB) == []
    # Then
    assert jobs.status(JOB).state == "failed"
    assert "poisoned" in str(jobs.status(JOB).reason)


def test_a_death_inside_the_engine_is_counted_before_its_work_is_published_again(jobs: JobStore) -> None:
    create(jobs)
    for _ in range(3):
        # Given a publisher that saw the message before it was claimed
        ticket = announce(jobs, SEGMENT_UNIT, 0, SEGMENTS)
        held = jobs.claim_segment(JOB, 0, ticket, "poisoned", SEGMENTS)
        assert isinstance(held, Claim)
        # When the holder has died inside the engine, Then only a survey takes its claim back
        jobs._lease_ms = 1
        assert jobs.renew(held, engine=True)
        time.sleep(0.005)
        assert jobs.announce(JOB, SEGMENT_UNIT, 0, SEGMENTS, seen=ticket) is None
        jobs.survey(JOB)
    assert (jobs.status(JOB).state, jobs.status(JOB).attempts) == ("failed", 3)


def test_survey_tells_what_lost_its_message(jobs: JobStore) -> None:
    create(jobs, 1)
    assert due(jobs) == [(SEGMENT_UNIT, 0, "unannounced")]
    ticket = ticket_of(jobs.announce(JOB, SEGMENT_UNIT, 0, SEGMENTS))
    assert [why for _, _, why in due(jobs)] == ["unpublished"]
    jobs.chained(JOB, 0)
    assert [why for _, _, why in due(jobs)] == ["waiting"]
    held = jobs.claim_segment(JOB, 0, ticket, "w", SEGMENTS)
    assert isinstance(held, Claim)
    assert jobs.survey(JOB) == []
    clip_claim = jobs.commit_segment(held, handoff(0))
    assert clip_claim
    assert jobs.survey(JOB) == []
    expire(jobs, clip_claim)
    ticket = announce(jobs, clip_unit(0), 0, CLIPS)
    again = jobs.claim_unit(JOB, clip_unit(0), 0, ticket, "w", CLIPS)
    assert isinstance(again, Claim)
    assert jobs.commit_clip(again, ClipRecord(0, "sha256:c", 1, 1)) == (True, True)
    assert due(jobs) == [(FILM_UNIT, -1, "unannounced")]


def test_a_late_clip_changes_nothing(jobs: JobStore) -> None:
    # Given a clip whose lease expired and that another worker made
    create(jobs, 1)
    late = jobs.commit_segment(claim(jobs, 0), handoff(0))
    assert late
    expire(jobs, late)
    ticket = announce(jobs, clip_unit(0), 0, CLIPS)
    second = jobs.claim_unit(JOB, clip_unit(0), 0, ticket, "w", CLIPS)
    assert isinstance(second, Claim)
    # When
    assert jobs.commit_clip(late, ClipRecord(0, "sha256:late", 1, 1)) == (False, False)
    assert jobs.commit_clip(second, ClipRecord(0, "sha256:right", 1, 1)) == (True, True)
    assert jobs.commit_clip(late, ClipRecord(0, "sha256:late", 1, 1)) == (False, False)
    assert jobs.commit_clip(late, ClipRecord(0, "sha256:right", 1, 1)) == (False, True)
    # Then
    assert jobs.clips(JOB)[0].blob_id == "sha256:right"


def film_claim(jobs: JobStore) -> Claim:
    ticket = announce(jobs, FILM_UNIT, -1, FILMS)
    claimed = jobs.claim_unit(JOB, FILM_UNIT, -1, ticket, "w", FILMS)
    assert isinstance(claimed, Claim), claimed
    return claimed


def test_lost_clips_are_reopened_before_the_film(jobs: JobStore) -> None:
    # Given
    create(jobs, 3)
    commit_all(jobs, 3)
    held = film_claim(jobs)
    # When
    assert jobs.reopen_clips(held, [0, 2])
    # Then
    assert not jobs.commit_film(held, FILM)
    assert sorted(due(jobs)) == [(clip_unit(0), 0, "expired"), (clip_unit(2), 2, "expired")]
    assert (jobs.status(JOB).epoch, jobs.status(JOB).clips) == (1, 1)
    assert announce(jobs, FILM_UNIT, -1, FILMS) == 0


def test_progress_is_shown_and_gone_after_the_commit(jobs: JobStore) -> None:
    create(jobs)
    held = claim(jobs, 0)
    assert jobs.renew(held, progress=Progress(0, 3, 8, 0.5))
    assert jobs.status(JOB).progress == Progress(0, 3, 8, 0.5)
    jobs.commit_segment(held, handoff(0))
    assert jobs.status(JOB).progress is None


def test_only_ended_jobs_are_forgotten_and_leave_no_key(jobs: JobStore, settings: Settings) -> None:
    create(jobs, 1)
    with pytest.raises(JobStateError):
        jobs.delete(JOB)
    jobs.commit_segment(claim(jobs, 0), handoff(0))
    jobs.stop(JOB, "cancelled", "")
    assert jobs.ended_for(-1) == [JOB]
    assert jobs.ended_for(60) == []
    jobs.delete(JOB)
    left = {key for key in connect(settings.redis_url).keys("*") if b":queue:" not in key}
    assert left == set()
    with pytest.raises(JobNotFoundError):
        jobs.status(JOB)


def test_an_unknown_job_is_told_as_such(jobs: JobStore) -> None:
    for ask in (jobs.status, lambda job: jobs.stop(job, "cancelled", "")):
        with pytest.raises(JobNotFoundError, match="longtake list"):
            ask("0000")
    with pytest.raises(MessageError):
        jobs.head("0000")
    assert jobs.claim_segment("0000", 0, 1, "w", SEGMENTS) == "there is no such job"


def test_a_handoff_from_outside_comes_before_the_first_segment(jobs: JobStore) -> None:
    spec = check_spec({"segments": [{"prompt": "a"}]})
    outside = handoff(-1, digest="d")
    assert jobs.create(JOB, spec, model="tiny", start=outside)
    assert jobs.admit(None)[0] == "admitted"
    assert claim(jobs, 0).previous == outside
    assert jobs.handoffs(JOB) == []


def test_a_failed_job_is_taken_up_where_it_failed(jobs: JobStore) -> None:
    # Given a job that failed at its second segment
    create(jobs)
    assert jobs.commit_segment(claim(jobs, 0), handoff(0))
    assert jobs.give_up(claim(jobs, 1), "RuntimeError: no", final=True) == ("failed", 0)
    assert jobs.active() == []
    # When
    assert jobs.revive(JOB, "failed") == "failed"
    # Then
    status = jobs.status(JOB)
    assert (status.state, status.committed, status.reason, status.attempts) == ("running", 1, None, None)
    assert jobs.active() == [JOB]
    assert jobs.ended_for(-1) == []
    assert jobs.admit(None) == ("admitted", JOB, 0)
    assert (SEGMENT_UNIT, 1, "unannounced") in due(jobs)
    assert jobs.commit_segment(claim(jobs, 1), handoff(1))


def test_a_clip_that_was_in_the_making_when_its_job_failed_is_made_after_a_retry(jobs: JobStore) -> None:
    # Given a job that fails at its second segment while another worker makes the clip of the first
    create(jobs)
    clip_claim = jobs.commit_segment(claim(jobs, 0), handoff(0))
    assert clip_claim
    assert jobs.give_up(claim(jobs, 1), "RuntimeError: no", final=True) == ("failed", 0)
    assert jobs.commit_clip(clip_claim, ClipRecord(0, "sha256:c", 1, 1)) == (False, False)
    # When
    jobs.revive(JOB, "failed")
    jobs.admit(None)
    # Then
    assert sorted(due(jobs)) == [(clip_unit(0), 0, "expired"), (SEGMENT_UNIT, 1, "unannounced")]
    ticket = announce(jobs, clip_unit(0), 0, CLIPS)
    again = jobs.claim_unit(JOB, clip_unit(0), 0, ticket, "w", CLIPS)
    assert isinstance(again, Claim)
    assert jobs.commit_clip(again, ClipRecord(0, "sha256:c", 1, 1)) == (True, False)


def test_a_job_that_failed_before_it_began_is_queued_again(jobs: JobStore) -> None:
    # Given
    create(jobs)
    jobs.stop(JOB, "failed", "no room")
    # When
    jobs.revive(JOB, "failed")
    jobs.admit(None)
    # Then
    assert jobs.status(JOB).state == "queued"
    claim(jobs, 0)
    assert jobs.status(JOB).state == "running"
    assert jobs.status(JOB).started_at is not None


def test_only_a_job_in_that_state_is_revived(jobs: JobStore) -> None:
    with pytest.raises(JobNotFoundError):
        jobs.revive(JOB, "failed")
    create(jobs)
    assert jobs.revive(JOB, "failed") == "queued"
    jobs.stop(JOB, "cancelled", "")
    assert jobs.revive(JOB, "failed") == "cancelled"
    assert jobs.active() == []
