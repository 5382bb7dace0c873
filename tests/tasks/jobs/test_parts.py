"""Parts of a film that are rendered in parallel: which segments may begin, and where they are in the film."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import redis

from blobstore.stored_format import FORMAT, FORMAT_OF_JOBS
from tasks.client.films.summary import film_summary
from tasks.errors import RecordError
from tasks.jobs.changes.edits import Replaced, ReplaceOutcome
from tasks.jobs.keys import job_keys
from tasks.jobs.queues import SEGMENTS, list_key
from tasks.jobs.records import ClipRecord, Handoff, Progress
from tasks.jobs.results import Claim, Refused
from tasks.jobs.store import JobStore
from tasks.jobs.timing import timing_in_plan
from tasks.jobs.units import JobState, UnitKind, WorkUnit
from tasks.maintenance.record_findings import examine_records
from tasks.server.routes.views import job_view
from tasks.spec.loader import check_spec
from tests.tasks.jobs.protocol import (
    FILM,
    JOB,
    announce,
    append_prompts,
    claim_unit,
    commit,
    expire,
    handoff,
    may_begin,
)

CUTS = (2, 4)


def segments(*cuts: int, count: int = 6, **changes: Any) -> list[dict[str, Any]]:
    return [{"prompt": str(i), "transition": "cut" if i in cuts else "continue"} | changes for i in range(count)]


def create(jobs: JobStore, *cuts: int, count: int = 6, **changes: Any) -> None:
    jobs.create(JOB, check_spec({"segments": segments(*cuts, count=count), **changes}), model="tiny")
    jobs.admit(None)


def begin(jobs: JobStore, index: int) -> Claim:
    """Announce a segment that may begin, and claim it."""
    announced = jobs.announce(JOB, WorkUnit.segment(index))
    assert announced, f"segment {index} may not begin"
    return take(jobs, index, announced.ticket)


def take(jobs: JobStore, index: int, ticket: int) -> Claim:
    found = jobs.claim(JOB, WorkUnit.segment(index), ticket, "w")
    assert isinstance(found, Claim), found
    return found


def next_of(jobs: JobStore, held: Claim) -> int | None:
    """Commit a segment and its clip; the segment whose message follows."""
    committed = jobs.commit_segment(held, made(held))
    assert committed
    jobs.commit_clip(committed.clip, ClipRecord(held.index, f"clip {held.index}", 1, 1))
    return committed.following.unit.index if committed.following else None


def made(held: Claim) -> Handoff:
    return handoff(held.index, continued=held.index not in (0, *CUTS), latents=f"latents {held.index}")


def test_only_jobs_with_cuts_behind_them_have_parts(jobs: JobStore, client: redis.Redis) -> None:
    record = job_keys(JOB, "record")[0]
    ways: list[dict[str, Any]] = [{}, {"parallel": False}, {"open": True}, {"approve": True}]
    for cuts, changes in [((), {}), *((CUTS, way) for way in ways)]:
        # Given / When
        client.flushdb()
        create(jobs, *cuts, **changes)
        # Then others are rendered in order, and have the record that they had
        is_parallel = bool(cuts) and not changes
        assert client.hexists(record, "next_part") == is_parallel, changes
        assert client.hget(record, "format") == (FORMAT_OF_JOBS if is_parallel else FORMAT).encode()
        assert may_begin(jobs) == ([0, 2, 4] if is_parallel else [0])
        assert sorted(client.hgetall(job_keys(JOB, "units")[0])) == (
            [b"segment:0", b"segment:2", b"segment:4"] if is_parallel else [b"segment"]
        )


def test_a_dissolve_does_not_begin_a_part(jobs: JobStore) -> None:
    # Given a scene that shows the end of the one before
    spec = [*segments(4), {"prompt": "later", "transition": "fade", "frames": 121}]
    spec[2]["transition"] = "fade"
    # When
    jobs.create(JOB, check_spec({"segments": spec}), model="tiny")
    jobs.admit(None)
    # Then
    assert may_begin(jobs) == [0, 4]


def test_a_second_part_is_not_due_by_itself(jobs: JobStore) -> None:
    # Given
    create(jobs, *CUTS)
    assert [(need.unit.index, need.why) for need in jobs.survey(JOB)] == [(0, "unannounced")]
    # When its first segment is in the queue
    jobs.announce(JOB, WorkUnit.segment(0))
    # Then
    assert sorted((need.unit.index, need.why) for need in jobs.survey(JOB)) == [(0, "waiting"), (2, "possible")]


def test_the_cursor_jumps_over_what_is_committed_behind_it(jobs: JobStore, client: redis.Redis) -> None:
    # Given
    create(jobs, *CUTS)
    first, second, third = (begin(jobs, index) for index in (0, 2, 4))
    status = jobs.status(JOB)
    assert status.claimed == (0, 2, 4)
    assert [(one.segment, one.steps) for one in job_view(status, None).in_work] == [(0, 0), (2, 0), (4, 0)]
    # When later parts are faster
    assert next_of(jobs, second) == 3
    assert next_of(jobs, third) == 5
    # Then
    status = jobs.status(JOB)
    assert (status.committed, status.ahead, status.rendered, status.clips) == (0, 2, 2, 2)
    assert json.loads(client.hget(job_keys(JOB, "record")[0], "ahead") or b"") == [[2, 3], [4, 5]]
    # When
    assert next_of(jobs, first) == 1
    held = {index: take(jobs, index, ticket(jobs, index)) for index in (1, 3, 5)}
    assert next_of(jobs, held[3]) is None
    assert next_of(jobs, held[1]) is None
    # Then all but the last are there, and it is at work
    assert (jobs.status(JOB).committed, jobs.status(JOB).ahead, jobs.status(JOB).claimed) == (5, 0, (5,))
    assert not client.hexists(job_keys(JOB, "record")[0], "ahead")
    # When the last clip is there
    committed = jobs.commit_segment(held[5], made(held[5]))
    assert committed
    # Then the film is due
    assert jobs.commit_clip(committed.clip, ClipRecord(5, "clip 5", 1, 1)).film
    assert [found.index for found in jobs.handoffs(JOB)] == list(range(6))


def ticket(jobs: JobStore, index: int) -> int:
    return {need.unit.index: need.ticket for need in jobs.survey(JOB)}[index]


def test_a_worker_that_has_reached_another_part_opens_the_next_one(jobs: JobStore) -> None:
    # Given
    create(jobs, 1, 2, count=4)
    first, _ = begin(jobs, 0), begin(jobs, 1)
    # When
    following = next_of(jobs, first)
    # Then
    assert following == 2


@pytest.mark.parametrize("others_wait", [True, False])
def test_parts_leave_workers_to_other_jobs(jobs: JobStore, client: redis.Redis, others_wait: bool) -> None:
    # Given two parts in work, and perhaps a message of another job
    create(jobs, *CUTS)
    first, second = begin(jobs, 0), begin(jobs, 2)
    if others_wait:
        client.lpush(list_key(SEGMENTS), "a message of another job")
    # When one of them goes on
    following = next_of(jobs, second)
    # Then it waits, and the other does not
    assert following == (None if others_wait else 3)
    if others_wait:
        assert next_of(jobs, first) == 1
        assert may_begin(jobs) == [3, 4]


def test_a_commit_whose_reply_was_lost_is_repeated_beside_others(jobs: JobStore) -> None:
    # Given
    create(jobs, *CUTS)
    first, second = begin(jobs, 0), begin(jobs, 2)
    commit(jobs, first)
    commit(jobs, second)
    # When
    again = jobs.commit_segment(first, handoff(0))
    # Then
    assert again
    assert again.clip.unit == WorkUnit.clip(0)
    assert again.following
    assert again.following.unit.index == 1


def test_a_repair_with_other_bytes_discards_its_part_alone(jobs: JobStore) -> None:
    # Given three parts, of which the last one is at work
    create(jobs, *CUTS)
    next_of(jobs, begin(jobs, 0))
    for index in range(1, 5):
        next_of(jobs, take(jobs, index, ticket(jobs, index)))
    last = take(jobs, 5, ticket(jobs, 5))
    # When segment 2 is rendered again with other bytes
    assert jobs.report_lost(last, WorkUnit.repair(2))
    repaired = take(jobs, 2, announce(jobs, WorkUnit.repair(2)))
    assert jobs.commit_repair(repaired, handoff(2, latents="other"), changed=True, clip_lost=False)
    # Then only segment 3 falls
    assert [found.index for found in jobs.handoffs(JOB)] == [0, 1, 2, 4]
    assert (jobs.status(JOB).committed, jobs.status(JOB).ahead, jobs.status(JOB).epoch) == (3, 1, 2)
    assert {need.unit.index for need in jobs.survey(JOB) if need.unit.kind == UnitKind.SEGMENT} == {3, 5}


def test_progress_is_that_of_every_segment_in_work(jobs: JobStore) -> None:
    # Given
    create(jobs, *CUTS)
    first, second = begin(jobs, 0), begin(jobs, 2)
    # When
    jobs.renew(second, progress=Progress(2, 4, 8, 0.5))
    jobs.renew(first, progress=Progress(0, 2, 8, 0.5))
    # Then
    assert [progress.index for progress in jobs.status(JOB).in_work] == [0, 2]
    assert jobs.status(JOB).steps_done == 0.75
    # When / Then
    commit(jobs, second)
    assert [progress.index for progress in jobs.status(JOB).in_work] == [0]


def test_a_late_message_of_a_part_is_refused(jobs: JobStore) -> None:
    # Given a lease that ends
    create(jobs, *CUTS)
    held = begin(jobs, 2)
    expire(jobs, held)
    # When
    new = take(jobs, 2, announce(jobs, WorkUnit.segment(2)))
    # Then
    late = jobs.claim(JOB, WorkUnit.segment(2), 1, "late")
    assert isinstance(late, Refused)
    assert jobs.commit_segment(held, handoff(2)) is None
    assert jobs.commit_segment(new, handoff(2))


def test_a_record_names_the_holders_of_commits_until_their_clips_are_there(jobs: JobStore, client: redis.Redis) -> None:
    def winners() -> list[bytes]:
        return [name for name in client.hgetall(job_keys(JOB, "record")[0]) if name.startswith(b"winner")]

    # Given a commit whose reply was lost
    create(jobs, *CUTS)
    first, second = begin(jobs, 0), begin(jobs, 2)
    assert jobs.commit_segment(first, made(first))
    # When / Then
    committed = jobs.commit_segment(first, made(first))
    assert committed
    assert winners() == [b"winner:0"]
    # When the clip is committed, Then its holder needs nothing more
    jobs.commit_clip(committed.clip, ClipRecord(0, "clip", 1, 1))
    assert winners() == []
    # When the job ends before a clip is there
    jobs.commit_segment(second, made(second))
    assert winners() == [b"winner:2"]
    jobs.stop(JOB, JobState.CANCELLED, "by user")
    # Then
    assert winners() == []


def test_the_place_of_a_part_is_that_of_a_chain(jobs: JobStore) -> None:
    # Given segments of several lengths and ways to begin
    spec = check_spec({"width": 64, "height": 32, "frames": 49, "segments": segments(*CUTS)})
    ways = [{}, {"frames": 25}, {}, {"transition": "fade", "frames": 41}, {}, {}]
    changed = [segment.model_copy(update=way) for segment, way in zip(spec.segments, ways, strict=True)]
    spec = spec.model_copy(update={"segments": changed})
    planned = {index: spec.planned(segment) for index, segment in enumerate(changed)}
    # When / Then
    for timing in spec.plan():
        if timing.index in CUTS:
            assert timing_in_plan(planned, timing.index, None) == timing
    # Given a state from outside, which is the tenth of its chain and begins at frame 30
    start = Handoff(-1, {"payload": {"segment_index": 9}}, first_frame=30)
    # When
    placed = timing_in_plan(planned, 2, start)
    # Then
    assert (placed.index, placed.offset, placed.continued) == (12, Fraction(0), False)
    assert placed.first_frame == 30 + (49 - 9) + (25 - 9)


def test_a_claim_before_the_segment_before_it_has_its_place(jobs: JobStore) -> None:
    # Given
    create(jobs, *CUTS)
    begin(jobs, 2)
    # When
    held = begin(jobs, 4)
    # Then
    plan = check_spec({"segments": segments(*CUTS)}).plan()
    assert held.previous is None
    assert held.timing == plan[4]
    # When it is committed
    next_of(jobs, held)
    # Then
    assert jobs.timings(JOB) == [plan[4]]
    assert jobs.places(JOB) == {4: plan[4]}


def test_the_place_of_a_part_needs_no_segment_behind_the_next_one(jobs: JobStore, client: redis.Redis) -> None:
    # Given
    create(jobs, *CUTS)
    client.hset(job_keys(JOB, "spec")[0], "5", b"damaged")
    # When / Then
    plan = check_spec({"segments": segments(*CUTS)}).plan()
    assert begin(jobs, 2).timing == plan[2]
    # When a segment before it is missing
    client.hdel(job_keys(JOB, "spec")[0], "1")
    # Then
    with pytest.raises(RecordError, match="damaged"):
        jobs.planned_timing(JOB, 2)


def test_segments_are_replaced_where_nothing_moves(jobs: JobStore) -> None:
    # Given a part that has begun
    create(jobs, *CUTS)
    begin(jobs, 2)
    # When / Then
    assert jobs.replace_segments(JOB, {1: {"prompt": "new"}}) == Replaced(ReplaceOutcome.REPLACED)
    assert jobs.replace_segments(JOB, {1: {"frames": 25}}) == Replaced(ReplaceOutcome.BEGUN, 2)
    assert jobs.replace_segments(JOB, {2: {"prompt": "new"}}) == Replaced(ReplaceOutcome.CLAIMED, 2)
    assert jobs.replace_segments(JOB, {5: {"frames": 25}}) == Replaced(ReplaceOutcome.REPLACED)
    assert jobs.begun(JOB) == 3
    # When one that is in the queue is no cut any more
    jobs.announce(JOB, WorkUnit.segment(4))
    assert jobs.replace_segments(JOB, {4: {"transition": "continue"}}) == Replaced(ReplaceOutcome.REPLACED)
    # Then it waits for the one before it
    assert 4 not in {need.unit.index for need in jobs.survey(JOB)} | {*may_begin(jobs)}


@pytest.mark.parametrize(
    ("name", "value"), [("ahead", "[[1]]"), ("ahead", "[2, 3]"), ("ahead", "x"), ("next_part", "x")]
)
def test_a_record_with_damaged_parts_fails_alone(jobs: JobStore, client: redis.Redis, name: str, value: str) -> None:
    # Given
    create(jobs, *CUTS)
    client.hset(job_keys(JOB, "record")[0], name, value)
    # When / Then
    with pytest.raises(RecordError, match=f"record: {name}"):
        jobs.survey(JOB)
    if name == "ahead":
        with pytest.raises(RecordError, match="damaged"):
            jobs.status(JOB)
        [finding] = examine_records(client, jobs, jobs.workers())
        assert "damaged" in finding.problem


def test_parts_that_are_appended_begin_at_once(jobs: JobStore) -> None:
    # Given
    create(jobs, 1, count=2)
    assert may_begin(jobs) == [0, 1]
    # When
    more = check_spec({"segments": [{"prompt": "a"}, {"prompt": "b", "transition": "cut"}]}).segments
    jobs.append(JOB, more, needs_bytes=0, budget_bytes=None)
    # Then
    assert may_begin(jobs) == [3]


def test_players_of_a_film_whose_end_they_were_not_shown_keep_their_list(jobs: JobStore) -> None:
    # Given the last segment, which is ahead of one that is missing
    create(jobs, 1, count=2)
    next_of(jobs, begin(jobs, 1))
    before = jobs.status(JOB).generation
    # When
    append_prompts(jobs, "more")
    # Then
    assert jobs.status(JOB).generation == before


def test_the_summary_of_a_film_has_no_segment_that_was_appended_behind_a_gap(jobs: JobStore) -> None:
    # Given a film of two parts, and a segment that was appended to it
    create(jobs, 2, count=4)
    for index in range(4):
        next_of(jobs, take(jobs, index, ticket(jobs, index)) if index else begin(jobs, 0))
    assert jobs.commit_film(claim_unit(jobs, WorkUnit.film()), replace(FILM, segments=4))
    append_prompts(jobs, "more", "more")
    next_of(jobs, begin(jobs, 4))
    # When segment 0 is rendered again with other bytes
    assert jobs.report_lost(take(jobs, 5, ticket(jobs, 5)), WorkUnit.repair(0))
    repaired = take(jobs, 0, announce(jobs, WorkUnit.repair(0)))
    assert jobs.commit_repair(repaired, handoff(0, latents="other"), changed=True, clip_lost=False)
    # Then
    summary = film_summary(jobs, JOB, of_film=True)
    assert [segment["index"] for segment in summary["segments"]] == [0, 2, 3]
