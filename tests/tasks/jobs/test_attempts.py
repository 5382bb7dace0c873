"""What counts as a failed attempt at a unit of work, and which worker gets the next one."""

from __future__ import annotations

import pytest

from tasks.jobs.results import Claim, FailedHere, Released, ReleaseOutcome
from tasks.jobs.store import JobStore
from tasks.jobs.units import WorkUnit
from tests.tasks.jobs.protocol import JOB, announce, claim, commit, create, due, end_lease, expire

DEATH = "its process died (signal 9 (SIGKILL))"


def test_a_job_fails_after_the_last_allowed_attempt(jobs: JobStore) -> None:
    create(jobs)
    for attempt in (1, 2, 3):
        held = claim(jobs, 0)
        assert jobs.release(held, "RuntimeError: no").outcome == ("retry" if attempt < 3 else "failed")
    status = jobs.status(JOB)
    assert (status.state, status.reason, status.failed_segment, status.attempts) == ("failed", "RuntimeError: no", 0, 3)


def test_a_release_without_a_reason_is_not_an_attempt(jobs: JobStore) -> None:
    create(jobs)
    for _ in range(5):
        assert jobs.release(claim(jobs, 0)).outcome == "retry"
    assert jobs.status(JOB).state == "queued" or jobs.status(JOB).state == "running"


def vanish(jobs: JobStore, worker: str) -> Claim:
    """A claim on the first segment whose lease ends inside the engine."""
    held = claim(jobs, 0, worker)
    end_lease(jobs, held, engine=True)
    return held


def test_claims_that_expire_inside_the_engine_fail_the_job_after_three_times_the_attempts(jobs: JobStore) -> None:
    create(jobs)
    # Given ten claims that expire outside the engine, and eight inside
    for _ in range(10):
        expire(jobs, claim(jobs, 0))
    for _ in range(8):
        vanish(jobs, "w")
        assert due(jobs) == [(WorkUnit.segment(0), "expired")]
    # When
    vanish(jobs, "poisoned")
    assert jobs.survey(JOB) == []
    # Then
    status = jobs.status(JOB)
    assert (status.state, status.reason) == ("failed", "its workers vanished 9 times, last poisoned")
    assert (status.failed_segment, status.attempts) == (0, 0)


def test_a_worker_that_is_cut_off_again_and_again_fails_no_job(jobs: JobStore) -> None:
    create(jobs)
    for _ in range(12):
        # Given a claim that expires inside the engine of a living worker
        held = vanish(jobs, "cut off")
        jobs.survey(JOB)
        # When the worker is back, Then it learns that its claim is lost, and does not count as vanished
        assert not jobs.renew(held)
    assert commit(jobs, claim(jobs, 0))


@pytest.mark.parametrize("expired", [False, True])
def test_a_reported_death_is_one_attempt(jobs: JobStore, expired: bool) -> None:
    create(jobs)
    for attempt in (1, 2, 3):
        # Given a claim inside the engine, whose lease perhaps has expired
        ticket = announce(jobs, WorkUnit.segment(0))
        held = jobs.claim(JOB, WorkUnit.segment(0), ticket, f"gpu:{attempt}", node="gpu", prefer_others=False)
        assert isinstance(held, Claim)
        assert jobs.renew(held, engine=True)
        if expired:
            end_lease(jobs, held)
            jobs.survey(JOB)
        # When its worker reports the death of the process, several times
        for repeat in range(3):
            _, released = report_death(jobs, ticket)
            assert released.outcome == ("failed" if attempt == 3 and not repeat else released.outcome)
    # Then each was one attempt
    status = jobs.status(JOB)
    assert (status.state, status.reason, status.attempts) == ("failed", DEATH, 3)
    assert [(failure.worker, failure.reason) for failure in status.failures] == [(f"gpu:{i}", DEATH) for i in (1, 2, 3)]


def report_death(jobs: JobStore, ticket: int, node: str = "gpu") -> tuple[WorkUnit, Released]:
    return jobs.report_death(JOB, WorkUnit.segment(0), ticket, node=node, reason=DEATH)


def test_a_death_before_the_claim_or_outside_the_engine_is_no_attempt(jobs: JobStore) -> None:
    create(jobs)
    for claimed in (False, True) * 5:
        ticket = announce(jobs, WorkUnit.segment(0))
        if claimed:
            assert isinstance(jobs.claim(JOB, WorkUnit.segment(0), ticket, "gpu:1", node="gpu"), Claim)
            # When another worker reports a death with the same message, Then the claim stays
            assert report_death(jobs, ticket, "other") == (WorkUnit.segment(0), Released(ReleaseOutcome.REFUSED))
        # When its own does, Then the message is due again
        assert report_death(jobs, ticket) == (WorkUnit.segment(0), Released(ReleaseOutcome.RETRY, ticket))
        assert due(jobs) == [(WorkUnit.segment(0), "expired")]
    assert jobs.status(JOB).state == "running"


def test_a_unit_is_left_to_workers_that_have_not_failed_it(jobs: JobStore) -> None:
    # Given a segment that failed on one worker, and vanished from another
    create(jobs)
    for node in ("failed", "vanished"):
        ticket = announce(jobs, WorkUnit.segment(0))
        held = jobs.claim(JOB, WorkUnit.segment(0), ticket, "w", node=node)
        assert isinstance(held, Claim)
        if node == "failed":
            assert jobs.release(held, "RuntimeError: no").outcome == "retry"
        else:
            end_lease(jobs, held, engine=True)
    # When they get its message, Then each learns on which ones it failed
    ticket = announce(jobs, WorkUnit.segment(0))
    for node in ("failed", "vanished"):
        left = FailedHere(WorkUnit.segment(0), ticket, frozenset({"failed", "vanished"}))
        assert jobs.claim(JOB, WorkUnit.segment(0), ticket, "w", node=node) == left
    # When there is no other worker, Then it may try again
    again = jobs.claim(JOB, WorkUnit.segment(0), ticket, "w", node="failed", prefer_others=False)
    assert isinstance(again, Claim)
    # And another worker never has to ask
    jobs.release(again)
    ticket = announce(jobs, WorkUnit.segment(0))
    assert isinstance(jobs.claim(JOB, WorkUnit.segment(0), ticket, "w", node="healthy"), Claim)
