"""Pausing and resuming jobs on a real Redis."""

from __future__ import annotations

import pytest
import redis

from tasks.client.submit import submit
from tasks.errors import JobNotFoundError, JobStateError
from tasks.jobs.queues import SEGMENTS
from tasks.jobs.records import Claim, Refused, UnitKind, WorkUnit
from tasks.jobs.store import JobStore
from tasks.settings import Settings
from tests.tasks.jobs.protocol import JOB, announce, claim, commit_all, create, due, handoff


def test_what_is_under_way_is_committed_and_nothing_more_is_handed_out(jobs: JobStore) -> None:
    # Given
    create(jobs)
    held = claim(jobs, 0)
    # When
    assert jobs.pause(JOB) == "running"
    # Then
    assert jobs.renew(held)
    assert jobs.commit_segment(held, handoff(0))
    assert jobs.announce(JOB, WorkUnit.segment(1)) is None
    assert jobs.survey(JOB) == []
    assert (jobs.status(JOB).state, jobs.status(JOB).committed) == ("paused", 1)
    # and when it is resumed the next segment is due
    assert jobs.resume(JOB) == "paused"
    assert (WorkUnit.segment(1), "unannounced") in due(jobs)


def test_a_message_that_came_during_the_pause_is_sent_again_and_no_other(jobs: JobStore) -> None:
    # Given a queued job whose message is still on its way
    create(jobs)
    ticket = announce(jobs, WorkUnit.segment(0))
    jobs.chained(JOB, 0)
    # When it is paused and resumed before the message comes, Then nothing is due
    jobs.pause(JOB)
    jobs.resume(JOB)
    assert jobs.status(JOB).state == "queued"
    assert due(jobs) == [(WorkUnit.segment(0), "waiting")]
    # When the message comes during a pause, Then it is known to be gone
    jobs.pause(JOB)
    assert jobs.claim(JOB, UnitKind.SEGMENT, 0, ticket, "w") == Refused("the job is paused")
    jobs.resume(JOB)
    assert due(jobs) == [(WorkUnit.segment(0), "expired")]
    assert isinstance(claim(jobs, 0), Claim)


def test_no_clip_and_no_film_is_handed_out_either(jobs: JobStore) -> None:
    # Given a job of which only the film is missing, whose message is on its way
    create(jobs, 1)
    commit_all(jobs, 1)
    ticket = announce(jobs, WorkUnit.film())
    # When the message comes during a pause, Then it gets nothing, and the film is due after it
    jobs.pause(JOB)
    assert jobs.claim(JOB, UnitKind.FILM, -1, ticket, "w") == Refused("the job is paused")
    jobs.resume(JOB)
    assert due(jobs) == [(WorkUnit.film(), "expired")]


def test_a_paused_job_can_be_cancelled_but_not_forgotten(jobs: JobStore) -> None:
    create(jobs)
    jobs.pause(JOB)
    with pytest.raises(JobStateError):
        jobs.delete(JOB)
    assert jobs.stop(JOB, "cancelled", "") == "paused"
    assert jobs.resume(JOB) == "cancelled"
    jobs.delete(JOB)


def test_only_what_makes_sense_is_done(settings: Settings, jobs: JobStore) -> None:
    job = submit({"segments": [{"prompt": "a"}]}, settings=settings)
    with pytest.raises(JobStateError, match="only a paused job"):
        job.resume()
    job.pause()
    with pytest.raises(JobStateError, match="is already paused"):
        job.pause()
    job.cancel()
    with pytest.raises(JobStateError, match="is already cancelled"):
        job.pause()
    with pytest.raises(JobNotFoundError):
        jobs.pause("0000")


def test_a_hundred_pauses_leave_one_message(settings: Settings) -> None:
    # Given
    job = submit({"segments": [{"prompt": "a"}]}, settings=settings)
    # When
    for _ in range(100):
        job.pause()
        job.resume()
    # Then
    assert redis.Redis.from_url(settings.redis_url).llen(SEGMENTS) == 1
