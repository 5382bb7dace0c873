"""Jobs that wait for more segments, or for approval, on a real Redis."""

from __future__ import annotations

import pytest
import redis

from tasks.errors import JobNotFoundError, JobStateError
from tasks.jobs.keys import PULSE, job_keys
from tasks.jobs.records import ClipRecord
from tasks.jobs.store import JobStore
from tasks.jobs.units import WorkUnit
from tests.tasks.jobs.protocol import (
    JOB,
    append_prompts,
    claim,
    claim_unit,
    commit,
    commit_all,
    create,
    create_with,
    due,
    finish_film,
    handoff,
)

# Open


def test_an_open_job_waits_at_its_end_until_it_is_closed(jobs: JobStore) -> None:
    # Given an open job without a segment
    create_with(jobs, 0, open=True)
    assert (jobs.status(JOB).state, due(jobs)) == ("open", [])
    with pytest.raises(JobStateError, match="has no segment"):
        jobs.close_end(JOB)
    # When one is appended and rendered
    append_prompts(jobs, "a")
    assert jobs.status(JOB).state == "queued"
    clip = commit(jobs, claim(jobs, 0))
    committed = jobs.commit_clip(clip, ClipRecord(0, "sha256:c", 1, 1))
    # Then no film is due, whoever asks
    assert (committed.film, jobs.status(JOB).state, due(jobs)) == (None, "open", [])
    assert jobs.announce(JOB, WorkUnit.film()) is None
    # When it is closed, Then the film is
    assert jobs.close_end(JOB, request="once")
    assert jobs.close_end(JOB, request="once")
    assert not jobs.close_end(JOB)
    assert due(jobs) == [(WorkUnit.film(), "unannounced")]
    finish_film(jobs)


def test_a_job_that_is_closed_early_renders_its_segments(jobs: JobStore) -> None:
    create_with(jobs, 2, open=True)
    assert jobs.close_end(JOB)
    commit_all(jobs, 2)
    finish_film(jobs)
    with pytest.raises(JobNotFoundError):
        jobs.close_end("unknown")


def test_a_job_that_is_left_open_closes_itself(jobs: JobStore, client: redis.Redis) -> None:
    # Given an open job that waits, and reconcilers that have run without a gap for 99 of 100 s
    create_with(jobs, 1, open=True)
    commit_all_clips(jobs)
    jobs._open_ms = 100_000
    client.hset(PULSE, "silence", 5000)
    record = job_keys(JOB, "record")[0]
    assert due(jobs) == []
    seconds, micros = client.time()
    client.hset(record, mapping={"waited_ms": 99_000, "waited_at": seconds * 1000 + micros // 1000 - 500})
    # When a round follows half a second later
    assert due(jobs) == []
    assert 99_500 <= int(client.hget(record, "waited_ms") or 0) < 100_000
    # And one after an outage or a jump of the clock, forward or back: Then that time does not count
    for at in (0, 10**15):
        client.hset(record, mapping={"waited_ms": 99_500, "waited_at": at})
        assert due(jobs) == []
        assert int(client.hget(record, "waited_ms") or 0) == 99_500
    # When the period is over, Then the job is closed and its film is due
    client.hset(record, "waited_ms", 100_000)
    assert due(jobs) == [(WorkUnit.film(), "unannounced")]
    assert not jobs.status(JOB).open


def commit_all_clips(jobs: JobStore) -> None:
    """Commit the only segment of an open job, and its clip."""
    jobs.commit_clip(commit(jobs, claim(jobs, 0)), ClipRecord(0, "sha256:c", 1, 1))


def test_an_append_begins_the_period_anew(jobs: JobStore, client: redis.Redis) -> None:
    create_with(jobs, 1, open=True)
    commit_all_clips(jobs)
    client.hset(job_keys(JOB, "record")[0], "waited_ms", 10**12)
    append_prompts(jobs, "b")
    jobs.commit_clip(commit(jobs, claim(jobs, 1)), ClipRecord(1, "sha256:c", 1, 1))
    assert (due(jobs), jobs.status(JOB).state) == ([], "open")


def test_a_job_that_is_left_open_without_a_segment_is_cancelled(jobs: JobStore, client: redis.Redis) -> None:
    create_with(jobs, 0, open=True)
    client.hset(job_keys(JOB, "record")[0], "waited_ms", 10**12)
    assert due(jobs) == []
    status = jobs.status(JOB)
    assert (status.state, status.reason) == ("cancelled", "it was open for too long, and no segment was appended")


# Approval


def test_a_job_waits_for_approval_after_each_segment(jobs: JobStore) -> None:
    # Given
    create_with(jobs, 2, approve=True)
    held = claim(jobs, 0)
    # When a segment is committed
    committed = jobs.commit_segment(held, handoff(0))
    # Then no next one is announced, by anybody, and its clip is made
    assert committed
    assert committed.following is None
    assert jobs.announce(JOB, WorkUnit.segment(1)) is None
    assert due(jobs) == []
    assert jobs.status(JOB).state == "awaiting approval"
    assert jobs.commit_clip(committed.clip, ClipRecord(0, "sha256:c", 1, 1)).accepted
    with pytest.raises(JobStateError, match="segment 1 of job aaaa1111 is not rendered yet"):
        jobs.approve(JOB, 1)
    # When it is approved, twice, Then the next one is due
    for _ in range(2):
        jobs.approve(JOB, 0)
    assert due(jobs) == [(WorkUnit.segment(1), "unannounced")]
    # When the last one is committed, Then the film waits for its approval
    clip = commit(jobs, claim(jobs, 1))
    assert jobs.commit_clip(clip, ClipRecord(1, "sha256:c", 1, 1)).film is None
    assert (due(jobs), jobs.status(JOB).state) == ([], "awaiting approval")
    assert jobs.announce(JOB, WorkUnit.film()) is None
    jobs.approve(JOB, 1)
    finish_film(jobs)


def test_all_segments_are_approved_at_once(jobs: JobStore) -> None:
    create_with(jobs, 3, approve=True)
    commit(jobs, claim(jobs, 0))
    for _ in range(2):
        jobs.approve(JOB, None)
    assert jobs.status(JOB).approved is None
    committed = jobs.commit_segment(claim(jobs, 1), handoff(1))
    assert committed
    assert committed.following


def test_another_job_asks_for_no_approval(jobs: JobStore) -> None:
    create(jobs, 1)
    with pytest.raises(JobStateError, match="asks for no approval"):
        jobs.approve(JOB, 0)
    with pytest.raises(JobNotFoundError):
        jobs.approve("unknown", 0)


def test_other_bytes_of_an_approved_segment_need_another_approval(jobs: JobStore) -> None:
    # Given an approved segment whose latents are lost
    create_with(jobs, 2, approve=True)
    clip = commit(jobs, claim(jobs, 0))
    jobs.approve(JOB, 0)
    assert jobs.report_lost(clip, WorkUnit.repair(0))
    # When its repair gives other bytes
    held = claim_unit(jobs, WorkUnit.repair(0))
    assert jobs.commit_repair(held, handoff(0, seed=7), changed=True, clip_lost=False)
    # Then
    assert (jobs.status(JOB).state, jobs.status(JOB).approved) == ("awaiting approval", 0)
    assert jobs.announce(JOB, WorkUnit.segment(1)) is None


def test_a_pause_during_the_approval_is_one_thing_more_to_wait_for(jobs: JobStore) -> None:
    create_with(jobs, 2, approve=True)
    commit(jobs, claim(jobs, 0))
    jobs.pause(JOB)
    jobs.approve(JOB, 0)
    assert (jobs.status(JOB).state, due(jobs)) == ("paused", [])
    jobs.resume(JOB)
    assert (WorkUnit.segment(1), "unannounced") in due(jobs)
