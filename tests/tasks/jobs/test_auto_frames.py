"""Lengths that workers decide for segments with `frames: auto`, on a real Redis."""

from __future__ import annotations

from typing import Any

import redis

from blobstore.stored_format import FORMAT_OF_JOBS
from tasks.jobs.changes.edits import Replaced, ReplaceOutcome
from tasks.jobs.keys import job_keys
from tasks.jobs.results import Claim, Refused
from tasks.jobs.store import JobStore
from tasks.jobs.units import WorkUnit
from tasks.spec.loader import check_spec
from tests.tasks.jobs.protocol import JOB, claim, commit, expire, may_begin

AUTO: dict[str, Any] = {"frames": "auto"}


def create(jobs: JobStore, *segments: dict[str, Any]) -> None:
    numbered = [{"prompt": str(index), **segment} for index, segment in enumerate(segments)]
    jobs.create(JOB, check_spec({"title": "harbour", "segments": numbered}), model="tiny-2.5")
    jobs.admit(None)


def decided(jobs: JobStore, held: Claim, frames: int) -> int | None:
    """The length after the holder has decided one; None: its claim was lost."""
    segment = jobs.decide_frames(held, frames)
    return segment.frames if segment else None


def lengths(jobs: JobStore) -> list[int | None]:
    return [segment.frames for segment in jobs.contents(JOB).segments]


def test_a_length_is_decided_once_by_the_holder_of_the_claim(jobs: JobStore, client: redis.Redis) -> None:
    # Given two segments without a length, which workers of an earlier version leave alone
    create(jobs, AUTO, AUTO)
    assert client.hget(job_keys(JOB, "record")[0], "format") == FORMAT_OF_JOBS.encode()
    first = claim(jobs, 0)
    assert first.segment
    assert (first.segment.is_undecided, first.timing.shape.frames) == (True, 121)
    # When its holder decides one, and again, since the reply was lost
    assert decided(jobs, first, 65) == decided(jobs, first, 65) == decided(jobs, first, 25) == 65
    # Then the next holder has the same, and a late word of the first changes nothing
    expire(jobs, first)
    assert decided(jobs, first, 41) is None
    second = claim(jobs, 0)
    assert second.segment
    assert (second.segment.frames, second.segment.auto_frames, second.timing.shape.frames) == (65, True, 65)
    assert decided(jobs, second, 41) == 65
    # And every reader
    commit(jobs, second)
    assert lengths(jobs) == [65, None]
    assert {index: one.shape.frames for index, one in jobs.planned(JOB).items()} == {0: 65, 1: 121}
    assert decided(jobs, second, 41) is None


def test_another_prompt_gives_the_length_up(jobs: JobStore) -> None:
    # Given a length that was decided for a prompt, whose worker then vanished
    create(jobs, {**AUTO, "seed": 2**62 + 1})
    held = claim(jobs, 0)
    assert decided(jobs, held, 65) == 65
    assert jobs.replace_segments(JOB, {0: {"prompt": "x"}}) == Replaced(ReplaceOutcome.CLAIMED, 0)
    expire(jobs, held)
    # When other values are replaced, Then it stays
    jobs.replace_segments(JOB, {0: {"steps": 9, "prompt": "0"}})
    assert lengths(jobs) == [65]
    # When the prompt is, Then the next worker decides
    jobs.replace_segments(JOB, {0: {"prompt": "x"}})
    assert lengths(jobs) == [None]
    assert decided(jobs, held, 41) is None
    assert decided(jobs, claim(jobs, 0), 81) == 81
    segment = jobs.contents(JOB).segments[0]
    assert (segment.frames, segment.prompt, segment.steps, segment.seed) == (81, "x", 9, 2**62 + 1)


CUT = {"transition": "cut"}


def test_a_part_begins_once_its_place_in_the_film_is_decided(jobs: JobStore) -> None:
    # Given parts that begin with segments 1, 2 and 4, before whose places lengths are open
    create(jobs, {}, {**CUT, **AUTO}, CUT, AUTO, CUT)
    # When / Then a part begins behind a known length, also if its own is open, and none behind that
    assert may_begin(jobs) == [0, 1]
    second = claimed(jobs, 1)
    assert may_begin(jobs) == []
    assert decided(jobs, second, 25) == 25
    assert may_begin(jobs) == [2]
    third = claimed(jobs, 2)
    assert third.timing.first_frame == 121 + 25
    commit(jobs, third)
    assert may_begin(jobs) == []
    assert decided(jobs, claimed(jobs, 3), 41) == 41
    assert may_begin(jobs) == [4]
    last = claimed(jobs, 4)
    assert last.timing.first_frame == 121 + 25 + 121 + 41 - 9
    # And what has begun does not move
    assert jobs.replace_segments(JOB, {0: {"frames": 9}}) == Replaced(ReplaceOutcome.BEGUN, 4)


def claimed(jobs: JobStore, index: int) -> Claim:
    """The claim on a segment that was announced."""
    unit = WorkUnit.segment(index)
    ticket = next(need.ticket for need in jobs.survey(JOB) if need.unit == unit)
    held = jobs.claim(JOB, unit, ticket, "w")
    assert isinstance(held, Claim), held
    return held


def test_parts_behind_a_length_that_becomes_open_are_closed(jobs: JobStore) -> None:
    # Given parts that were announced, and that nobody has claimed
    create(jobs, {}, {}, CUT, CUT)
    assert may_begin(jobs) == [0, 2, 3]
    message = next(need.ticket for need in jobs.survey(JOB) if need.unit == WorkUnit.segment(3))
    # When a length before them is open
    changes = {1: {"auto_frames": True, "frames": None}}
    assert jobs.replace_segments(JOB, changes) == Replaced(ReplaceOutcome.REPLACED)
    # Then their messages get nothing, until it is decided
    assert jobs.claim(JOB, WorkUnit.segment(3), message, "w") == Refused("it was not announced")
    commit(jobs, claimed(jobs, 0))
    assert may_begin(jobs) == []
    assert decided(jobs, claimed(jobs, 1), 41) == 41
    assert may_begin(jobs) == [2, 3]
    assert claimed(jobs, 3).timing.first_frame == 121 + 41 - 9 + 121
