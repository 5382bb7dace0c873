"""Takes of several segments in job records: rendered in order, chosen whole, replaced, lost."""

from __future__ import annotations

from dataclasses import replace

import pytest
import redis

from tasks.client.job import Job
from tasks.errors import JobStateError, RoomError
from tasks.jobs.committed import Take, Takes
from tasks.jobs.keys import RESERVED
from tasks.jobs.records import ClipRecord
from tasks.jobs.results import ReleaseOutcome
from tasks.jobs.store import JobStore
from tasks.jobs.units import JobState, WorkUnit
from tasks.settings import Settings
from tasks.spec.loader import check_spec
from tests.tasks.jobs.protocol import FILM, JOB, claim, claim_unit, commit, due, handoff
from tests.tasks.jobs.take_steps import ask, done_job, finish, made, render, render_otherwise, take_clip

MADE_FROM = "what it was made from was rendered again, with other bytes"


@pytest.fixture
def done(jobs: JobStore) -> JobStore:
    """A job of five segments, each a continuation, that is done."""
    return done_job(jobs, 5)


def render_all(jobs: JobStore, first: int, last: int, take: int) -> None:
    """Render a take that was asked for."""
    for segment in range(first, last + 1):
        render(jobs, segment, take)


def shown(jobs: JobStore) -> dict[int, int]:
    return dict(jobs.takes(JOB).shown)


def clips(jobs: JobStore) -> dict[int, tuple[str, int, int]]:
    return {index: (clip.blob_id, clip.take, clip.next_take) for index, clip in jobs.clips(JOB).items()}


def test_each_segment_continues_the_take_and_only_the_last_one_is_led_to_an_end(done: JobStore) -> None:
    # When
    assert ask(done, 1, 2, last=3) == [1, 2]
    # Then the first segments are due, one worker each
    assert [unit for unit, _ in due(done)] == [WorkUnit.of_take(1, 1), WorkUnit.of_take(1, 2)]
    assert done.status(JOB).takes_due == 2
    held = claim_unit(done, WorkUnit.of_take(1, 2))
    assert (held.previous, held.from_take, held.other) == (done.handoff(JOB, 0), 0, None)
    assert done.commit_take(held, made(held), take_clip(held), changed=False)
    # And each of the others after the one before
    assert [unit for unit, _ in due(done)] == [WorkUnit.of_take(1, 1), WorkUnit.of_take(2, 2)]
    middle = claim_unit(done, WorkUnit.of_take(2, 2))
    assert (middle.previous, middle.from_take, middle.other) == (made(held), 2, None)
    assert done.commit_take(middle, made(middle), take_clip(middle), changed=False)
    last = claim_unit(done, WorkUnit.of_take(3, 2))
    assert (last.previous, last.other, last.other_take) == (made(middle), done.handoff(JOB, 3), 0)
    # And it can be chosen only once it is whole
    with pytest.raises(JobStateError, match="take 2 of segment 2 of job aaaa1111 is not rendered"):
        done.choose(JOB, 2, 2)
    assert done.commit_take(last, made(last), take_clip(last), changed=False)
    done.choose(JOB, 2, 2)
    assert shown(done) == {1: 2, 2: 2, 3: 2}


def test_a_whole_take_is_crossfaded_at_its_end_alone(done: JobStore) -> None:
    before = clips(done)
    ask(done, 1, last=3)
    render_all(done, 1, 3, 1)
    # When
    assert [done.choose(JOB, 1, 1, request="c") for _ in range(2)] == [0, 0]
    # Then
    assert due(done) == [(WorkUnit.clip(3), "expired")]
    finish(done)
    own = dict.fromkeys((1, 2), ("clip of take 1", 1, -1))
    assert clips(done) == before | own | {3: ("clip 3 of take 1", 1, 0)}
    # When any of its segments shows what was rendered first
    done.choose(JOB, 2, 0)
    # Then all do
    assert (shown(done), clips(done)) == ({}, before)


@pytest.mark.parametrize(("first", "last", "then"), [(2, None, {2: 2}), (3, 4, {3: 2, 4: 2}), (0, 1, {0: 2, 1: 2})])
def test_a_take_that_overlaps_a_whole_one_replaces_it(
    done: JobStore, first: int, last: int | None, then: dict[int, int]
) -> None:
    before = clips(done)
    ask(done, 1, last=3)
    render_all(done, 1, 3, 1)
    assert ask(done, first, last=last) == [2]
    render_all(done, first, last or first, 2)
    done.choose(JOB, 1, 1)
    finish(done)
    # When
    done.choose(JOB, first, 2)
    # Then the others show what was rendered first
    assert shown(done) == then
    finish(done)
    kept = set(range(5)) - set(then) - {first - 1}
    assert {index: clips(done)[index] for index in kept} == {index: before[index] for index in kept}
    # When it is chosen again, it replaces the other one in turn
    done.choose(JOB, 3, 1)
    assert shown(done) == {1: 1, 2: 1, 3: 1}


def test_two_takes_beside_each_other_are_shown_together(done: JobStore) -> None:
    ask(done, 0, last=1)
    ask(done, 2, last=3)
    render_all(done, 0, 1, 1)
    render_all(done, 2, 3, 1)
    done.choose(JOB, 0, 1)
    done.choose(JOB, 2, 1)
    finish(done)
    assert shown(done) == {0: 1, 1: 1, 2: 1, 3: 1}
    assert {index: clip[1:] for index, clip in clips(done).items()} == {
        0: (1, -1),
        1: (1, 1),
        2: (1, -1),
        3: (1, 0),
        4: (0, -1),
    }


def test_a_take_that_fails_in_one_segment_fails_whole_and_alone(done: JobStore) -> None:
    ask(done, 1, last=3)
    render(done, 1, 1)
    for attempt in range(3):
        released = done.release(claim_unit(done, WorkUnit.of_take(2, 1)), f"failure {attempt}")
    assert released.outcome == ReleaseOutcome.FAILED
    takes = [done.takes(JOB).takes[segment, 1] for segment in (1, 2, 3)]
    assert [(take.made, take.clip, take.failed) for take in takes] == [(None, None, "failure 2")] * 3
    assert (done.status(JOB).state, done.status(JOB).film, done.status(JOB).takes_due) == (JobState.DONE, FILM, 0)


def test_a_take_that_is_cancelled_on_its_way_is_listed_so(done: JobStore) -> None:
    ask(done, 1, last=2)
    render(done, 1, 1)
    done.stop(JOB, JobState.CANCELLED, "by user")
    assert [done.takes(JOB).takes[i, 1].failed for i in (1, 2)] == ["the job was done before"] * 2
    assert done.status(JOB).state == JobState.DONE


def test_a_lost_segment_of_a_take_is_rendered_again_as_it_was(done: JobStore) -> None:
    # Given
    ask(done, 1, last=3)
    render_all(done, 1, 3, 1)
    done.choose(JOB, 1, 1)
    held = claim_unit(done, WorkUnit.clip(3))
    # When its last one is lost, and the one before that too
    assert done.report_lost(held, WorkUnit.of_take(3, 1))
    assert done.report_lost(claim_unit(done, WorkUnit.of_take(3, 1)), WorkUnit.of_take(2, 1))
    # Then they are rendered from the take, to the end of before
    again = claim_unit(done, WorkUnit.of_take(2, 1))
    assert (again.from_take, again.other_take) == (1, -1)
    assert done.commit_take(again, made(again), take_clip(again), changed=False)
    last = claim_unit(done, WorkUnit.of_take(3, 1))
    assert (last.from_take, last.other_take) == (1, 0)
    assert done.commit_take(last, made(last), take_clip(last), changed=False)
    finish(done)
    assert shown(done) == {1: 1, 2: 1, 3: 1}


def test_a_segment_that_comes_out_otherwise_takes_the_whole_take_along(done: JobStore) -> None:
    before = clips(done)
    ask(done, 1, last=3)
    render_all(done, 1, 3, 1)
    done.choose(JOB, 1, 1)
    # When
    again = render_otherwise(done, 2, 1, lost_by=WorkUnit.clip(3))
    # Then what was rendered first is shown
    assert [done.takes(JOB).takes[i, 1].failed for i in (1, 2, 3)] == [MADE_FROM] * 3
    assert (shown(done), clips(done)) == ({}, before)
    finish(done)
    # And a repeated commit gets the same answer
    assert done.commit_take(again, made(again, latents="other"), take_clip(again), changed=True)


@pytest.mark.parametrize("lost", [1, 2])
def test_a_repair_within_a_whole_take_that_comes_out_otherwise_takes_it_along(done: JobStore, lost: int) -> None:
    # Given a whole take of 1 to 3, and a take of 0
    ask(done, 1, last=3)
    render_all(done, 1, 3, 1)
    done.choose(JOB, 1, 1)
    finish(done)
    ask(done, 0)
    held = claim_unit(done, WorkUnit.of_take(0, 1))
    # When an original that it replaces is rendered again, with other bytes
    done.report_lost(held, WorkUnit.repair(lost))
    repair = claim_unit(done, WorkUnit.repair(lost))
    assert done.commit_repair(repair, handoff(lost, continued=True, latents="other"), changed=True, clip_lost=False)
    # Then the film goes on from the new one
    assert [done.takes(JOB).takes[i, 1].failed for i in (1, 2, 3)] == [MADE_FROM] * 3
    assert (shown(done), done.status(JOB).committed) == ({}, lost + 1)
    assert {index: clip[0] for index, clip in clips(done).items()} == {i: f"clip {i}" for i in range(lost)}


def test_takes_of_several_segments_reserve_the_room_of_all(done: JobStore, client: redis.Redis) -> None:
    client.hset(RESERVED, JOB, 50)
    with pytest.raises(RoomError):
        ask(done, 1, last=3, needs_bytes=300, budget_bytes=349)
    assert (due(done), done.takes(JOB).of(1)) == ([], [])
    ask(done, 1, last=3, needs_bytes=300, budget_bytes=350)
    assert client.hget(RESERVED, JOB) == b"350"


def test_what_cannot_be_asked_for(done: JobStore) -> None:
    with pytest.raises(JobStateError, match="segment 5 of job aaaa1111 is not rendered; segments 0 to 4 are rendered"):
        ask(done, 3, last=5)


def test_a_fork_within_a_shown_take_shares_its_first_segments(done: JobStore) -> None:
    ask(done, 1, 2, last=3)
    for number in (1, 2):
        render_all(done, 1, 3, number)
    done.choose(JOB, 1, 2)
    finish(done)
    # When
    shared = done.contents(JOB).committed.first(3)
    # Then it ends there, and the take that is not shown is left out
    assert sorted(shared.takes.takes) == [(1, 0), (1, 2), (2, 0), (2, 2)]
    assert [shared.takes.takes[index, 0].clip for index in (1, 2)] == [
        ClipRecord(index, f"clip {index}", 1, 1) for index in (1, 2)
    ]
    assert [take.segments for take in shared.takes.of(2)] == [range(1, 3)]
    assert shared.takes.shown == {1: 2, 2: 2}
    fields = shared.takes.fields().items()
    assert Takes.read({name.encode(): v if isinstance(v, bytes) else b"%d" % v for name, v in fields}) == shared.takes


def test_another_worker_takes_up_a_take_where_it_stopped(done: JobStore) -> None:
    ask(done, 1, last=2)
    render(done, 1, 1)
    held = claim_unit(done, WorkUnit.of_take(2, 1), "first")
    done.release(held)
    # When
    again = claim_unit(done, WorkUnit.of_take(2, 1), "second")
    assert (again.fence > held.fence, again.previous) == (True, held.previous)
    assert not done.commit_take(held, made(held), take_clip(held), changed=False)
    assert done.commit_take(again, made(again), take_clip(again), changed=False)


@pytest.fixture
def fading(jobs: JobStore) -> JobStore:
    """A job of two segments that is done; the second one dissolves from the first."""
    spec = check_spec({"segments": [{"prompt": "a"}, {"prompt": "b", "transition": "fade"}]})
    jobs.create(JOB, spec, model="tiny")
    jobs.admit(None)
    for index in range(2):
        held = commit(jobs, claim(jobs, index), handoff(index, latents=f"latents {index}", dissolve=index))
        clip = ClipRecord(index, f"clip {index}", 1, 1, dissolves_from=held.from_take if index else -1)
        assert jobs.commit_clip(held, clip).accepted
    assert jobs.commit_film(claim_unit(jobs, WorkUnit.film()), FILM)
    return jobs


def test_a_fade_dissolves_from_the_take_that_is_shown(fading: JobStore) -> None:
    ask(fading, 0)
    render(fading, 0, 1)
    # When
    fading.choose(JOB, 0, 1)
    # Then the clip of the new scene is made again, from the take
    assert due(fading) == [(WorkUnit.clip(1), "expired")]
    held = claim_unit(fading, WorkUnit.clip(1))
    assert held.previous
    assert (held.previous.latents, held.from_take, held.own_take) == ("take 1", 1, 0)
    stale = ClipRecord(1, "stale", 1, 1, dissolves_from=0)
    assert not fading.commit_clip(held, stale).accepted
    again = claim_unit(fading, WorkUnit.clip(1))
    assert fading.commit_clip(again, ClipRecord(1, "new", 1, 1, dissolves_from=1)).accepted
    finish(fading)
    # When the first one is shown again
    fading.choose(JOB, 0, 0)
    # Then the clip of before is there
    assert due(fading) == [(WorkUnit.film(), "unannounced")]
    assert [clip.blob_id for clip in fading.clips(JOB).values()] == ["clip 0", "clip 1"]


def test_a_take_of_a_fade_that_dissolves_from_what_is_not_shown_any_more_is_encoded_again(fading: JobStore) -> None:
    ask(fading, 1)
    held = claim_unit(fading, WorkUnit.of_take(1, 1))
    assert fading.commit_take(held, made(held), replace(take_clip(held), dissolves_from=0), changed=False)
    ask(fading, 0)
    render(fading, 0, 1)
    fading.choose(JOB, 0, 1)
    # When
    fading.choose(JOB, 1, 1)
    # Then
    assert due(fading) == [(WorkUnit.clip(1), "expired")]
    again = claim_unit(fading, WorkUnit.clip(1))
    assert (again.own_take, again.from_take) == (1, 1)


@pytest.fixture
def continuing(jobs: JobStore) -> JobStore:
    """A job of three segments that is done: the film shows take 1 of segments 0 to 1, which segment 2 continues."""
    done_job(jobs, 2)
    ask(jobs, 0, last=1)
    render_all(jobs, 0, 1, 1)
    jobs.choose(JOB, 0, 1)
    segments = check_spec({"segments": [{"prompt": "c"}]}).segments
    assert jobs.append(JOB, segments, needs_bytes=0, budget_bytes=None).first == 2
    held = commit(jobs, claim(jobs, 2), handoff(2, continued=True, from_take=1))
    assert held.from_take == 1
    assert jobs.commit_clip(held, ClipRecord(2, "clip 2", 1, 1)).accepted
    finish(jobs)
    return jobs


def first_of(jobs: JobStore, segment: int) -> Take:
    """Take 0 of a segment."""
    return Take(segment, 0, made=jobs.handoff(JOB, segment))


def test_a_take_that_is_continued_is_not_replaced_in_part(continuing: JobStore) -> None:
    # When its first segment alone is to show another take, Then its second one, which is continued, does not fit to it
    with pytest.raises(JobStateError, match=r"segment 2 of .* continues take 1 of segment 1, and take 0 does not"):
        continuing.choose(JOB, 0, 0)
    # And the list names the segment that continues it
    assert continuing.contents(JOB).committed.prevents(first_of(continuing, 0)) == 2
    # Given a take of the second one that leads into the same end, from what was rendered first
    assert ask(continuing, 1) == [2]
    held = render(continuing, 1, 2)
    assert (held.from_take, held.other_take) == (0, 1)
    # When it is chosen, Then the first one shows that again
    continuing.choose(JOB, 1, 2)
    assert shown(continuing) == {1: 2}
    assert continuing.contents(JOB).committed.prevents(first_of(continuing, 0)) is None
    # And a fork of both segments, whose clips are lost, has what a repair of the take is led into
    committed = continuing.contents(JOB).committed.first(2)
    assert sorted(committed.takes.needed(committed.handoffs, ()).takes) == [(0, 1), (1, 1), (1, 2)]
    # And the whole take can be chosen again, from either of its segments
    continuing.choose(JOB, 1, 1)
    assert shown(continuing) == {0: 1, 1: 1}


def test_several_segments_of_which_one_cannot_show_take_0_are_refused_before_any_is_changed(
    continuing: JobStore, settings: Settings
) -> None:
    # Given a take of the segment after those that are continued as a whole
    assert ask(continuing, 2) == [1]
    render(continuing, 2, 1)
    continuing.choose(JOB, 2, 1)
    before = shown(continuing)
    # When
    with pytest.raises(
        JobStateError, match="segment 2 of job aaaa1111 continues take 1 of segment 1, and take 0 does not"
    ):
        Job(JOB, settings=settings).choose(0, 0, last=2)
    # Then
    assert shown(continuing) == before == {0: 1, 1: 1, 2: 1}


def test_a_take_that_falls_makes_way_for_the_one_that_is_continued(continuing: JobStore) -> None:
    # Given a take of both segments that leads into the end of the one that is continued, and is shown
    assert ask(continuing, 0, last=1) == [2]
    render_all(continuing, 0, 1, 2)
    continuing.choose(JOB, 0, 2)
    # When its first segment is rendered again, with other bytes
    render_otherwise(continuing, 0, 2, lost_by=WorkUnit.clip(1))
    # Then
    assert shown(continuing) == {0: 1, 1: 1}


def test_segments_of_a_later_part_are_retaken_while_earlier_ones_are_missing(
    jobs: JobStore, settings: Settings
) -> None:
    # Given a job whose second part is rendered, and nothing else
    segments = [{"prompt": "a"}, {"prompt": "b"}, {"prompt": "c", "transition": "cut"}, {"prompt": "d"}]
    jobs.create(JOB, check_spec({"segments": segments}), model="tiny")
    jobs.admit(None)
    for index in (2, 3):
        commit(jobs, claim_unit(jobs, WorkUnit.segment(index)), handoff(index, continued=index == 3))
    job = Job(JOB, settings=settings)
    # When
    assert (job.retake(2), job.retake(2, last=3)) == ([1], [2])
    # Then each is listed, and begins from what is before it
    assert [take.name for take in job.takes()] == [
        "take 0 of segment 2",
        "take 1 of segment 2",
        "take 2 of segments 2 to 3",
    ]
    held = render(jobs, 2, 1)
    assert (held.previous, held.timing.first_frame, held.other_take) == (None, 233, 0)
    job.choose(2, 1)
    assert shown(jobs) == {2: 1}
    # And what is missing can be neither retaken nor shared
    with pytest.raises(JobStateError, match="segment 1 of job aaaa1111 is not rendered; segments 2 to 3 are rendered"):
        job.retake(1, last=2)
    with pytest.raises(JobStateError, match="segment 0 of job aaaa1111 is not rendered yet, so a fork cannot share it"):
        job.cascade(2)
