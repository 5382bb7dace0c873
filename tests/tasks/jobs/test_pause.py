"""Pausing and resuming jobs on a real Redis."""

from __future__ import annotations

import pytest
import redis

from tasks.client.submit import submit
from tasks.errors import JobNotFoundError, JobStateError
from tasks.jobs.queues import SEGMENTS
from tasks.jobs.results import Claim, Refused
from tasks.jobs.store import JobStore
from tasks.jobs.units import WorkUnit
from tasks.settings import Settings
from tests.tasks.jobs.protocol import JOB, announce, claim, commit_all, create, due, handoff


def test_a_paused_job_commits_its_running_segment_and_starts_no_other(jobs: JobStore) -> None:
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
    # When it is resumed, Then the next segment is due
    assert jobs.resume(JOB) == "paused"
    assert (WorkUnit.segment(1), "unannounced") in due(jobs)


def test_only_a_message_that_was_refused_during_the_pause_is_sent_again(jobs: JobStore) -> None:
    # Given a queued job whose message was sent and not delivered yet
    create(jobs)
    ticket = announce(jobs, WorkUnit.segment(0))
    jobs.chained(JOB, 0)
    # When it is paused and resumed before the delivery, Then its message is not sent again
    jobs.pause(JOB)
    jobs.resume(JOB)
    assert jobs.status(JOB).state == "queued"
    assert due(jobs) == [(WorkUnit.segment(0), "waiting")]
    # When the message is delivered during a pause, Then it is refused and must be sent again
    jobs.pause(JOB)
    assert jobs.claim(JOB, WorkUnit.segment(0), ticket, "w") == Refused("the job is paused")
    jobs.resume(JOB)
    assert due(jobs) == [(WorkUnit.segment(0), "expired")]
    assert isinstance(claim(jobs, 0), Claim)


def test_a_paused_job_does_not_assemble_its_film(jobs: JobStore) -> None:
    # Given a job that lacks only its film, and the message for it
    create(jobs, 1)
    commit_all(jobs, 1)
    ticket = announce(jobs, WorkUnit.film())
    # When the message is delivered during a pause, Then it is refused, and the film is due after the pause
    jobs.pause(JOB)
    assert jobs.claim(JOB, WorkUnit.film(), ticket, "w") == Refused("the job is paused")
    jobs.resume(JOB)
    assert due(jobs) == [(WorkUnit.film(), "expired")]


def test_a_paused_job_can_be_cancelled_but_not_deleted(jobs: JobStore) -> None:
    create(jobs)
    jobs.pause(JOB)
    with pytest.raises(JobStateError):
        jobs.delete(JOB)
    assert jobs.stop(JOB, "cancelled", "") == "paused"
    assert jobs.resume(JOB) == "cancelled"
    jobs.delete(JOB)


def test_invalid_transitions_are_rejected(settings: Settings, jobs: JobStore) -> None:
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
