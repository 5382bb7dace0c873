"""Takes in job records: asked for, rendered, chosen, lost and kept."""

from __future__ import annotations

import pytest
import redis

from blobstore.stored_format import FORMAT, FORMAT_OF_JOBS
from tasks.errors import JobNotFoundError, JobStateError, RoomError
from tasks.jobs.committed import TakeRequest
from tasks.jobs.events import EventKind, EventReader
from tasks.jobs.keys import RESERVED, job_keys
from tasks.jobs.records import ClipRecord, Progress
from tasks.jobs.results import ReleaseOutcome
from tasks.jobs.store import JobStore
from tasks.jobs.units import JobState, WorkUnit
from tests.tasks.jobs.protocol import FILM, JOB, announce, claim, claim_unit, commit, commit_all, create, due, handoff
from tests.tasks.jobs.take_steps import ask, clip_of, finish, made, render, render_otherwise, take_clip


def test_a_take_starts_from_the_state_before_and_leads_into_what_the_next_segment_continues(done: JobStore) -> None:
    # When
    assert ask(done, 1, 2) == [1, 2]
    # Then the job runs, and two workers can have a take each
    assert done.status(JOB).state == JobState.RUNNING
    assert done.status(JOB).takes_due == 2
    first, second = (claim_unit(done, WorkUnit.of_take(1, number)) for number in (1, 2))
    assert (first.previous, first.other, first.other_take) == (done.handoff(JOB, 0), done.handoff(JOB, 1), 0)
    assert (first.own, first.request, second.request) == (None, TakeRequest("new 0"), TakeRequest("new 1"))
    # When both are rendered
    for held in (second, first):
        assert done.commit_take(held, made(held), take_clip(held), changed=False)
    # Then the job is done again, with the same film and the same record of every segment
    assert (done.status(JOB).state, done.status(JOB).film) == (JobState.DONE, FILM)
    assert [handoff.latents for handoff in done.handoffs(JOB)] == ["latents 0", "latents 1", "latents 2"]
    assert [take.made.latents for take in done.takes(JOB).of(1) if take.made] == ["take 1", "take 2"]


@pytest.mark.parametrize(("segment", "end"), [(0, 0), (1, 0), (2, -1)])
def test_only_a_take_that_another_segment_continues_is_pinned(done: JobStore, segment: int, end: int) -> None:
    ask(done, segment)
    assert claim_unit(done, WorkUnit.of_take(segment, 1)).other_take == end


def test_a_take_before_a_cut_is_not_pinned(jobs: JobStore) -> None:
    create(jobs, 2)
    commit(jobs, claim(jobs, 0))
    commit(jobs, claim(jobs, 1), handoff(1, continued=False))
    ask(jobs, 0)
    assert claim_unit(jobs, WorkUnit.of_take(0, 1)).other_take == -1


def test_a_request_that_is_repeated_gets_the_same_takes(done: JobStore) -> None:
    assert [ask(done, 1, 2, request="r") for _ in range(2)] == [[1, 2], [1, 2]]
    assert ask(done, 1, request="s") == [3]
    # And a request for others is refused
    with pytest.raises(JobStateError, match=f"other takes were asked for with this idempotency key, of job {JOB}"):
        ask(done, 1, 1, request="r")
    assert len(done.takes(JOB).of(1)) == 3


def test_a_chosen_take_replaces_its_clip_alone_and_the_film_at_the_end(done: JobStore) -> None:
    ask(done, 1)
    render(done, 1, 1)
    before = done.clips(JOB)
    # When it is chosen
    assert [done.choose(JOB, 1, 1, request="c") for _ in range(2)] == [0, 0]
    # Then its clip alone is due, crossfaded with the segment after it, and the old film is there
    assert due(done) == [(WorkUnit.clip(1), "expired")]
    status = done.status(JOB)
    assert (status.state, status.film, status.epoch) == (JobState.RUNNING, FILM, 1)
    held = claim_unit(done, WorkUnit.clip(1))
    assert held.own
    assert held.other
    assert (held.own.latents, held.own_take, held.other.latents, held.other_take) == ("take 1", 1, "latents 2", 0)
    # When clip and film are made
    committed = done.commit_clip(held, clip_of(held))
    assert committed.film
    film = claim_unit(done, WorkUnit.film())
    assert done.commit_film(film, FILM)
    # Then
    assert done.status(JOB).state == JobState.DONE
    assert done.clips(JOB) == before | {1: ClipRecord(1, "new clip", 1, 1, take=1, next_take=0)}


def test_the_first_take_can_be_chosen_again_without_any_work_but_the_film(done: JobStore) -> None:
    before = done.clips(JOB)
    ask(done, 1)
    render(done, 1, 1)
    done.choose(JOB, 1, 1)
    finish(done)
    # When
    assert done.choose(JOB, 1, 0) == 1
    # Then
    assert due(done) == [(WorkUnit.film(), "unannounced")]
    finish(done)
    assert done.clips(JOB) == before
    assert done.takes(JOB).shown == {}


def test_a_take_of_the_last_segment_is_shown_by_its_own_clip(done: JobStore) -> None:
    ask(done, 2)
    render(done, 2, 1)
    done.choose(JOB, 2, 1)
    assert due(done) == [(WorkUnit.film(), "unannounced")]
    assert done.clips(JOB)[2] == ClipRecord(2, "clip of take 1", 1, 1, take=1)


def test_the_clip_before_a_retaken_segment_is_made_again_only_if_it_was_crossfaded(done: JobStore) -> None:
    for segment in (0, 1):
        ask(done, segment)
        render(done, segment, 1)
    done.choose(JOB, 1, 1)
    assert due(done) == [(WorkUnit.clip(1), "expired")]
    finish(done)
    done.choose(JOB, 0, 1)
    finish(done)
    assert done.clips(JOB)[0].next_take == 1
    # When the segment after a retaken one changes, too
    done.choose(JOB, 1, 0)
    # Then
    assert claim_unit(done, WorkUnit.clip(0)).other_take == 0
    assert done.clips(JOB)[1].take == 0


def test_a_clip_that_shows_other_takes_than_those_chosen_is_refused(done: JobStore) -> None:
    ask(done, 1, 2)
    for number in (1, 2):
        render(done, 1, number)
    done.choose(JOB, 1, 1)
    held = claim_unit(done, WorkUnit.clip(1))
    # When another take is chosen while the clip is made
    done.choose(JOB, 1, 2)
    # Then
    assert not done.commit_clip(held, clip_of(held)).accepted
    again = claim_unit(done, WorkUnit.clip(1))
    assert again.own_take == 2
    assert not done.commit_clip(again, clip_of(held)).accepted
    assert due(done) == [(WorkUnit.clip(1), "expired")]


def test_a_clip_is_crossfaded_when_the_next_segment_is_committed(jobs: JobStore) -> None:
    # Given a segment that is rendered while a take of the one before is chosen
    create(jobs, 2)
    jobs.commit_clip(commit(jobs, claim(jobs, 0)), ClipRecord(0, "c", 1, 1))
    following = claim(jobs, 1)
    ask(jobs, 0)
    render(jobs, 0, 1)
    jobs.choose(JOB, 0, 1)
    assert jobs.clips(JOB)[0].take == 1
    # When
    commit(jobs, following, handoff(1, continued=True))
    # Then
    held = claim_unit(jobs, WorkUnit.clip(0))
    assert (held.own_take, held.other_take) == (1, 0)


def test_what_is_rendered_later_continues_the_take_that_is_shown(jobs: JobStore) -> None:
    create(jobs, 2)
    commit(jobs, claim(jobs, 0))
    ask(jobs, 0, 2)
    for number in (1, 2):
        render(jobs, 0, number)
    jobs.choose(JOB, 0, 2)
    # When
    held = claim(jobs, 1)
    # Then
    assert held.previous
    assert (held.previous.latents, held.from_take) == ("take 2", 2)
    # And neither the original nor another take leads into it
    with pytest.raises(JobStateError, match="segment 1 of job aaaa1111 continues take 2 of segment 0, and take 0 does"):
        jobs.choose(JOB, 0, 0)
    commit(jobs, held, handoff(1, continued=True, from_take=2))
    with pytest.raises(JobStateError, match="take 1 does not lead into it"):
        jobs.choose(JOB, 0, 1)
    # But one that is rendered now
    ask(jobs, 0)
    assert render(jobs, 0, 3).other_take == 2
    jobs.choose(JOB, 0, 3)
    assert claim_unit(jobs, WorkUnit.clip(0)).other_take == 0


def test_a_take_that_fails_is_listed_with_its_reason_and_the_job_goes_on(done: JobStore) -> None:
    ask(done, 1)
    for attempt in range(3):
        released = done.release(claim_unit(done, WorkUnit.of_take(1, 1)), f"failure {attempt}")
    assert released.outcome == ReleaseOutcome.FAILED
    assert [take.failed for take in done.takes(JOB).of(1)] == ["failure 2"]
    assert (done.status(JOB).state, done.status(JOB).reason) == (JobState.DONE, None)
    with pytest.raises(JobStateError, match="is not rendered; `longtake takes"):
        done.choose(JOB, 1, 1)


def test_takes_that_a_job_no_longer_renders_are_listed_so(jobs: JobStore) -> None:
    create(jobs, 2)
    commit(jobs, claim(jobs, 0))
    ask(jobs, 0)
    jobs.stop(JOB, JobState.CANCELLED, "by user")
    assert [take.failed for take in jobs.takes(JOB).of(0)] == ["the job was cancelled before"]


def test_cancelling_takes_leaves_the_film(done: JobStore) -> None:
    ask(done, 1)
    assert done.stop(JOB, JobState.CANCELLED, "by user") == JobState.RUNNING
    status = done.status(JOB)
    assert (status.state, status.film, status.takes_due) == (JobState.DONE, FILM, 0)


def test_a_lost_end_is_rendered_again_before_the_take(done: JobStore) -> None:
    ask(done, 1)
    held = claim_unit(done, WorkUnit.of_take(1, 1))
    assert done.report_lost(held, WorkUnit.repair(1))
    assert due(done) == [(WorkUnit.repair(1), "expired")]
    repair = claim_unit(done, WorkUnit.repair(1))
    assert done.commit_repair(repair, handoff(1), changed=False, clip_lost=False)
    assert due(done) == [(WorkUnit.of_take(1, 1), "expired")]


def test_a_lost_take_is_rendered_again_to_the_same_end(done: JobStore) -> None:
    ask(done, 1)
    former = render(done, 1, 1)
    done.choose(JOB, 1, 1)
    held = claim_unit(done, WorkUnit.clip(1))
    assert done.report_lost(held, WorkUnit.of_take(1, 1))
    again = claim_unit(done, WorkUnit.of_take(1, 1))
    assert (again.own, again.other_take, again.other) == (made(former), 0, former.other)
    assert done.commit_take(again, made(again), take_clip(again), changed=False)
    assert due(done) == [(WorkUnit.clip(1), "expired")]
    finish(done)


def test_a_take_that_comes_out_otherwise_takes_its_clips_along(done: JobStore) -> None:
    for segment in (0, 1):
        ask(done, segment)
        render(done, segment, 1)
        done.choose(JOB, segment, 1)
        finish(done)
    ask(done, 1)  # so that the job runs
    render_otherwise(done, 1, 1, lost_by=WorkUnit.of_take(1, 2))
    assert [unit for unit, _ in due(done)] == [WorkUnit.clip(0), WorkUnit.clip(1), WorkUnit.of_take(1, 2)]


def test_a_repair_with_other_bytes_takes_what_was_made_from_it_along(done: JobStore, client: redis.Redis) -> None:
    # Given a chosen take of segment 1, and one of segment 2
    for segment in (1, 2):
        ask(done, segment)
        render(done, segment, 1)
    done.choose(JOB, 1, 1)
    held = claim_unit(done, WorkUnit.clip(1))
    done.report_lost(held, WorkUnit.repair(1))
    repair = claim_unit(done, WorkUnit.repair(1))
    # When
    assert done.commit_repair(repair, handoff(1, latents="other"), changed=True, clip_lost=False)
    # Then both have fallen, the original is shown, and segment 2 is rendered again
    takes = done.takes(JOB)
    assert [take.failed for take in (*takes.of(1), *takes.of(2))] == [
        "what it was made from was rendered again, with other bytes"
    ] * 2
    assert takes.shown == {}
    assert (done.status(JOB).committed, done.status(JOB).film) == (2, FILM)


@pytest.mark.parametrize(("budget", "fits"), [(250, True), (249, False)])
def test_takes_reserve_their_room(done: JobStore, client: redis.Redis, budget: int, fits: bool) -> None:
    client.hset(RESERVED, mapping={JOB: 50, "other": 100})
    if not fits:
        with pytest.raises(RoomError, match="about 100 bytes of blobs; 150 of the 249 bytes of LONGTAKE_BLOB_BUDGET"):
            ask(done, 1, needs_bytes=100, budget_bytes=budget)
        assert done.takes(JOB).of(1) == []
        return
    ask(done, 1, needs_bytes=100, budget_bytes=budget)
    assert client.hget(RESERVED, JOB) == b"150"
    assert done.status(JOB).needs_bytes == 100


def test_a_choice_reserves_the_room_of_its_clips_and_film(done: JobStore, client: redis.Redis) -> None:
    ask(done, 1)
    render(done, 1, 1)
    client.hset(RESERVED, JOB, 50)
    with pytest.raises(RoomError):
        done.choose(JOB, 1, 1, needs_bytes=51, budget_bytes=100)
    assert done.status(JOB).state == JobState.DONE
    done.choose(JOB, 1, 1, needs_bytes=50, budget_bytes=100)
    assert client.hget(RESERVED, JOB) == b"100"


def test_what_cannot_be_asked_for_or_chosen(jobs: JobStore, done: JobStore) -> None:
    with pytest.raises(JobStateError, match="segment 3 of job aaaa1111 is not rendered; segments 0 to 2 are rendered"):
        ask(done, 3)
    with pytest.raises(JobStateError, match="no take 2 of segment 1 of job aaaa1111; it has only take 0"):
        done.choose(JOB, 1, 2)
    for call in (lambda: done.choose("unknown", 0, 0), lambda: done.retake("unknown", range(1), [TakeRequest()])):
        with pytest.raises(JobNotFoundError):
            call()


def test_a_job_that_ended_early_has_no_takes(jobs: JobStore) -> None:
    create(jobs, 2)
    commit(jobs, claim(jobs, 0))
    jobs.stop(JOB, JobState.FAILED, "no")
    with pytest.raises(JobStateError, match="is failed and not all of its segments are rendered"):
        ask(jobs, 0)


def test_the_record_says_the_version_only_once_it_has_takes(done: JobStore, client: redis.Redis) -> None:
    [record] = job_keys(JOB, "record")
    assert client.hget(record, "format") == FORMAT.encode()
    ask(done, 1)
    assert client.hget(record, "format") == FORMAT_OF_JOBS.encode()


def test_a_kept_job_outlives_its_retention(done: JobStore) -> None:
    # Given
    done.keep(JOB, None)
    # Then a sweep spares it
    assert done.ended_for(0) == []
    with pytest.raises(JobStateError, match="or is kept"):
        done.delete(JOB, unless_kept=True)
    assert (done.status(JOB).kept, done.status(JOB).kept_until) == (True, None)
    # When / Then
    done.keep(JOB, -1.0)
    assert done.ended_for(0) == [JOB]
    done.keep(JOB, 3600)
    assert done.ended_for(0) == []
    done.unkeep(JOB)
    assert done.ended_for(0) == [JOB]
    done.delete(JOB, unless_kept=True)
    with pytest.raises(JobNotFoundError):
        done.keep(JOB, None)


def test_forgetting_a_job_deletes_its_takes(done: JobStore, client: redis.Redis) -> None:
    ask(done, 1)
    render(done, 1, 1)
    done.delete(JOB)
    assert not list(client.scan_iter(f"*{JOB}*"))


def test_a_take_is_announced_once(done: JobStore) -> None:
    ask(done, 1)
    assert announce(done, WorkUnit.of_take(1, 1))
    assert done.announce(JOB, WorkUnit.of_take(1, 1)) is None


def test_a_job_without_takes_is_as_before(jobs: JobStore, client: redis.Redis) -> None:
    create(jobs, 2)
    commit_all(jobs, 2)
    assert not client.exists(*job_keys(JOB, "takes"))


def test_the_steps_of_takes_are_shown_beside_those_of_the_segment(jobs: JobStore) -> None:
    # Given a segment and two takes that are being rendered
    create(jobs, 2)
    commit(jobs, claim(jobs, 0))
    ask(jobs, 0, 2)
    held = [claim(jobs, 1), *(claim_unit(jobs, WorkUnit.of_take(0, number)) for number in (1, 2))]
    # When
    for step, one in enumerate(held, 2):
        assert jobs.renew(one, progress=Progress(one.index, step, 8, 0.5))
    # Then
    status = jobs.status(JOB)
    assert status.progress == Progress(1, 2, 8, 0.5)
    assert status.take_progress == (Progress(0, 3, 8, 0.5, take=1), Progress(0, 4, 8, 0.5, take=2))
    assert jobs.contents(JOB).take_progress == status.take_progress
    events = [event.data for event in EventReader(jobs._redis).after("0", job_id=JOB) if event.kind == EventKind.STEP]
    assert [(event["segment"], event.get("take"), event["step"]) for event in events] == [
        (1, None, 2),
        (0, 1, 3),
        (0, 2, 4),
    ]
    # When they are released
    for one in held[1:]:
        jobs.release(one)
    assert jobs.status(JOB).take_progress == ()
