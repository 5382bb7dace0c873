"""Segments that are appended to jobs, and prompts that are replaced, on a real Redis."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import redis

from tasks.errors import JobNotFoundError, VersionError
from tasks.jobs.changes.edits import Appended, AppendOutcome, Replaced, ReplaceOutcome
from tasks.jobs.connection import connect
from tasks.jobs.events import BEGINNING, EventReader
from tasks.jobs.keys import RESERVED, job_keys
from tasks.jobs.records import ClipRecord
from tasks.jobs.results import Admission, AdmissionOutcome, Claim, Refused
from tasks.jobs.store import JobStore
from tasks.jobs.units import JobState, WorkUnit
from tasks.settings import Settings
from tasks.spec.loader import check_spec
from tasks.spec.segments import MAX_SEGMENTS, SegmentSpec
from tests.tasks.jobs.protocol import (
    FILM,
    JOB,
    announce,
    append_prompts,
    claim,
    claim_unit,
    commit,
    commit_all,
    create,
    create_with,
    due,
    finish_film,
)

# Append


def test_a_job_that_is_done_continues_and_keeps_its_film_meanwhile(jobs: JobStore) -> None:
    # Given
    create(jobs)
    commit_all(jobs, 2)
    finish_film(jobs)
    # When
    assert append_prompts(jobs, "c") == Appended(AppendOutcome.APPENDED, first=2)
    # Then
    status = jobs.status(JOB)
    assert (status.state, status.segments, status.committed, status.film) == ("running", 3, 2, FILM)
    assert (status.finished_at, jobs.ended_for(0), jobs.active()) == (None, [], [JOB])
    assert due(jobs) == [(WorkUnit.segment(2), "unannounced")]
    held = claim(jobs, 2)
    assert held.segment
    assert held.segment.prompt == "c"
    jobs.commit_clip(commit(jobs, held), ClipRecord(2, "sha256:c", 1, 1))
    finish_film(jobs)
    assert jobs.status(JOB).state == "done"


def test_segments_appended_while_the_film_is_joined_take_the_film_back(jobs: JobStore) -> None:
    # Given a film in a worker's hands
    create(jobs, 1)
    commit_all(jobs, 1)
    held = claim_unit(jobs, WorkUnit.film())
    # When
    append_prompts(jobs, "b")
    # Then its commit is refused, and the next segment is due
    assert not jobs.commit_film(held, FILM)
    assert due(jobs) == [(WorkUnit.segment(1), "unannounced")]


@pytest.mark.parametrize("before", ["queued", "running", "paused", "done"])
def test_an_append_is_repeated_without_effect(jobs: JobStore, before: str) -> None:
    create(jobs, 1)
    if before != "queued":
        commit_all(jobs, 1)
    if before == "paused":
        jobs.pause(JOB)
    elif before == "done":
        finish_film(jobs)
    found = [append_prompts(jobs, "b", "c", needs=5, request="once") for _ in range(3)]
    assert found == [Appended(AppendOutcome.APPENDED, first=1)] * 3
    status = jobs.status(JOB)
    assert (status.segments, status.needs_bytes, jobs.reserved_bytes()) == (3, 5, 5)
    assert jobs.prompts(JOB) == {0: "0", 1: "b", 2: "c"}
    assert status.state == ("running" if before == "done" else before)
    # And with other segments it is refused
    assert append_prompts(jobs, "b", "d", needs=5, request="once") == Appended(AppendOutcome.OTHER, first=1)
    assert jobs.status(JOB) == status


def test_appends_of_many_clients_get_places_of_their_own(jobs: JobStore, settings: Settings) -> None:
    create(jobs, 1)
    firsts: list[int] = []

    def run(number: int) -> None:
        with connect(settings.redis_url) as client:
            firsts.extend(append_prompts(JobStore(client, settings), f"{number}", "x").first for _ in range(5))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(firsts) == list(range(1, 41, 2))
    assert jobs.status(JOB).segments == 41


def test_an_append_reserves_its_room_or_is_refused_with_the_figures(jobs: JobStore) -> None:
    # Given a job that has reserved 10 of 25 bytes
    create_with(jobs, 1, needs=10, budget=25)
    # When / Then
    assert append_prompts(jobs, "b", needs=16, budget=25) == Appended(AppendOutcome.FULL, needs_bytes=16, free_bytes=15)
    assert (jobs.status(JOB).segments, jobs.reserved_bytes()) == (1, 10)
    assert append_prompts(jobs, "b", needs=15, budget=25).outcome == AppendOutcome.APPENDED
    assert (jobs.status(JOB).needs_bytes, jobs.reserved_bytes()) == (25, 25)
    # And a job that is done reserves all that it may need again
    commit_all(jobs, 2)
    finish_film(jobs)
    jobs.settle(JOB, 4, reserved=jobs.unsettled(set())[JOB])
    assert append_prompts(jobs, "c", needs=5, budget=25) == Appended(AppendOutcome.FULL, needs_bytes=26, free_bytes=21)
    assert (jobs.status(JOB).state, jobs.reserved_bytes()) == ("done", 4)
    assert append_prompts(jobs, "c", needs=5, budget=30).outcome == AppendOutcome.APPENDED
    assert (jobs.status(JOB).admitted, jobs.reserved_bytes()) == (True, 30)
    assert not jobs.waits_for_room()


def test_an_append_to_a_job_that_waits_for_room_must_fit_the_budget(jobs: JobStore) -> None:
    create_with(jobs, 1, needs=10, budget=5)
    assert append_prompts(jobs, "b", needs=16, budget=25).outcome == AppendOutcome.FULL
    assert append_prompts(jobs, "b", needs=15, budget=25).outcome == AppendOutcome.APPENDED
    assert (jobs.status(JOB).admitted, jobs.reserved_bytes()) == (False, 0)
    assert jobs.admit(25) == Admission(AdmissionOutcome.ADMITTED, JOB, 25)


def test_a_job_that_waits_for_another_one_may_grow_meanwhile(jobs: JobStore) -> None:
    # Given a job that has reserved the whole budget, and one that waits for it
    jobs.create("bbbb2222", check_spec({"segments": [{"prompt": "a"}]}), model="tiny", needs_bytes=25)
    assert jobs.admit(25).job_id == "bbbb2222"
    create_with(jobs, 1, needs=10, budget=25)
    # When / Then
    assert append_prompts(jobs, "b", needs=15, budget=25).outcome == AppendOutcome.APPENDED
    assert append_prompts(jobs, "c", needs=1, budget=25).outcome == AppendOutcome.FULL
    assert (jobs.status(JOB).admitted, jobs.reserved_bytes()) == (False, 25)


def test_what_cannot_be_appended(jobs: JobStore, client: redis.Redis) -> None:
    create(jobs, 1)
    assert append_prompts(jobs, "b", first=2) == Appended(AppendOutcome.MOVED, first=1)
    client.hset(job_keys(JOB, "record")[0], "segments", MAX_SEGMENTS - 1)
    assert append_prompts(jobs, "b", "c") == Appended(AppendOutcome.LONG, first=MAX_SEGMENTS - 1)
    client.hset(job_keys(JOB, "record")[0], "segments", 1)
    for state in (JobState.FAILED, JobState.CANCELLED):
        jobs.stop(JOB, state, "")
        assert append_prompts(jobs, "b") == Appended(AppendOutcome.ENDED, state=state)
        jobs.revive(JOB, state)
    with pytest.raises(JobNotFoundError):
        jobs.append("unknown", [], needs_bytes=0, budget_bytes=None)


# Prompts


def test_a_prompt_is_replaced_until_its_segment_is_claimed(jobs: JobStore) -> None:
    # Given a job whose first segment is announced
    create(jobs, 3)
    ticket = announce(jobs, WorkUnit.segment(0))
    replaced = jobs.replace_segments(JOB, {0: {"prompt": "zero"}, 2: {"prompt": "two"}})
    assert replaced == Replaced(ReplaceOutcome.REPLACED)
    # When it is claimed, Then the claim has the new prompt, and it stays
    held = jobs.claim(JOB, WorkUnit.segment(0), ticket, "w")
    assert isinstance(held, Claim)
    assert held.segment
    assert held.segment.prompt == "zero"
    refused = jobs.replace_segments(JOB, {1: {"prompt": "one"}, 0: {"prompt": "0"}})
    assert refused == Replaced(ReplaceOutcome.CLAIMED, 0)
    assert jobs.prompts(JOB) == {0: "zero", 1: "1", 2: "two"}, "not all or none"
    # When it is given back, it can be changed again; once it is committed, it cannot
    jobs.release(held)
    assert jobs.replace_segments(JOB, {0: {"prompt": "nought"}}).outcome == ReplaceOutcome.REPLACED
    again = claim(jobs, 0)
    assert again.segment
    assert again.segment.prompt == "nought"
    commit(jobs, again)
    assert jobs.replace_segments(JOB, {0: {"prompt": "0"}}) == Replaced(ReplaceOutcome.COMMITTED, 0)


@pytest.mark.parametrize("index", [-1, 2, 99])
def test_there_is_no_prompt_to_replace(jobs: JobStore, index: int) -> None:
    create(jobs, 2)
    assert jobs.replace_segments(JOB, {index: {"prompt": "a"}}) == Replaced(ReplaceOutcome.ABSENT, index)
    with pytest.raises(JobNotFoundError):
        jobs.replace_segments("unknown", {index: {"prompt": "a"}})


def test_other_fields_of_a_segment_stay(jobs: JobStore) -> None:
    wanted = [{"prompt": "a", "seed": 2**63 - 1, "transition": "cut"}]
    jobs.create(JOB, check_spec({"segments": wanted}), model="tiny")
    jobs.replace_segments(JOB, {0: {"prompt": "b"}})
    [segment] = jobs.contents(JOB).segments
    assert segment == SegmentSpec(prompt="b", seed=2**63 - 1, transition="cut")


def test_a_prompt_that_a_bad_segment_failed_with_is_replaced_before_the_retry(jobs: JobStore) -> None:
    create(jobs, 1)
    jobs.release(claim(jobs, 0), "a bad prompt", final=True)
    assert jobs.status(JOB).state == "failed"
    assert jobs.replace_segments(JOB, {0: {"prompt": "a good one"}}).outcome == ReplaceOutcome.REPLACED
    jobs.revive(JOB, JobState.FAILED)
    jobs.admit(None)
    held = claim(jobs, 0)
    assert held.segment
    assert held.segment.prompt == "a good one"


# All


def test_every_change_is_an_event(jobs: JobStore, client: redis.Redis) -> None:
    create_with(jobs, 1, open=True, approve=True)
    jobs.replace_segments(JOB, {0: {"prompt": "zero"}})
    commit(jobs, claim(jobs, 0))
    for _ in range(2):
        jobs.approve(JOB, 0)
        append_prompts(jobs, "b", request="once")
        jobs.close_end(JOB, request="twice")
    events = [(str(event.kind), dict(event.data)) for event in EventReader(client).after(BEGINNING, job_id=JOB)]
    assert [event for event in events if event[0] in ("replaced", "approved", "appended", "closed")] == [
        ("replaced", {"segment": 0}),
        ("approved", {"segment": 0}),
        ("appended", {"first": 1, "segments": 2}),
        ("closed", {}),
    ]


@pytest.mark.parametrize(
    "call",
    [
        lambda jobs: append_prompts(jobs, "b"),
        lambda jobs: jobs.replace_segments(JOB, {1: {"prompt": "b"}}),
        lambda jobs: jobs.close_end(JOB),
        lambda jobs: jobs.approve(JOB, 0),
    ],
)
def test_a_job_of_a_newer_version_is_not_changed(jobs: JobStore, client: redis.Redis, call: Any) -> None:
    create_with(jobs, 2, open=True, approve=True)
    client.hset(job_keys(JOB, "record")[0], "format", "2.0")
    before = {key: client.dump(key) for key in client.scan_iter("*")}
    with pytest.raises(VersionError):
        call(jobs)
    assert {key: client.dump(key) for key in client.scan_iter("*")} == before


def test_a_record_without_these_fields_is_as_before(jobs: JobStore, client: redis.Redis) -> None:
    # Given a record as an earlier version wrote it
    create(jobs, 1)
    assert not {b"open", b"approved"} & set(client.hkeys(job_keys(JOB, "record")[0]))
    status = jobs.status(JOB)
    assert (status.open, status.approved) == (False, None)
    # When / Then
    append_prompts(jobs, "b")
    commit_all(jobs, 2)
    finish_film(jobs)
    assert client.hget(RESERVED, JOB) == b"0"


def test_a_message_of_a_film_that_was_taken_back_is_refused(jobs: JobStore) -> None:
    create(jobs, 1)
    commit_all(jobs, 1)
    ticket = announce(jobs, WorkUnit.film())
    append_prompts(jobs, "b")
    assert jobs.claim(JOB, WorkUnit.film(), ticket, "w") == Refused("it is done")
