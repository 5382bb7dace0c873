"""A unit whose bytes have a render class is left to workers of that class for a while."""

from __future__ import annotations

import pytest

from tasks.jobs.results import Claim, ClaimResult, OtherClass
from tasks.jobs.store import JobStore
from tasks.jobs.units import WorkUnit
from tasks.spec.loader import check_spec
from tests.conftest import wait_until
from tests.tasks.jobs.protocol import JOB, announce, claim_unit, commit, create, handoff

HOUR_S = 3600.0


def ask(jobs: JobStore, unit: WorkUnit, ticket: int, render_class: str, wait_s: float = HOUR_S) -> ClaimResult:
    return jobs.claim(JOB, unit, ticket, "w", render_class=render_class, class_wait_s=wait_s)


@pytest.mark.parametrize("name", ["segment", "repair", "clip"])
def test_a_unit_waits_for_a_worker_of_its_class(jobs: JobStore, name: str) -> None:
    # Given a segment that a worker of class A rendered: the next one continues it, or it lost its state or clip
    create(jobs)
    unit = {"segment": WorkUnit.segment(1), "repair": WorkUnit.repair(0), "clip": WorkUnit.clip(0)}[name]
    held = claim_unit(jobs, WorkUnit.segment(0))
    clip = commit(jobs, held, handoff(0, render_class="A"))
    if name == "repair":
        assert jobs.report_lost(claim_unit(jobs, WorkUnit.segment(1)), unit)
    if name == "clip":
        jobs.release(clip)
    ticket = announce(jobs, unit)
    # When a worker of class B asks, Then it is to leave it to others, and the message is used up
    left = OtherClass(unit, ticket, "A")
    assert ask(jobs, unit, ticket, "B") == left
    # When its own class asks, or one that does not know its class, Then it gets the unit, with the class
    for known in ("A", ""):
        own = ask(jobs, unit, ticket, known)
        assert isinstance(own, Claim)
        assert own.render_class == "A"
        jobs.release(own)
        ticket = announce(jobs, unit)
    # When class B asks until its patience is over, Then it gets the unit
    assert ask(jobs, unit, ticket, "B") == OtherClass(unit, ticket, "A")
    late = wait_until(lambda: isinstance(found := ask(jobs, unit, ticket, "B", 0.05), Claim) and found, what="a claim")
    assert late.render_class == "A"


def test_what_has_no_class_is_for_any_worker(jobs: JobStore) -> None:
    # Given a first segment, one after a cut, and one after a segment of an earlier version
    segments = [{"prompt": "0"}, {"prompt": "1", "transition": "cut"}, {"prompt": "2"}]
    jobs.create(JOB, check_spec({"segments": segments}), model="tiny")
    jobs.admit(None)
    for index, made_by in enumerate(["A", "", ""]):
        ticket = announce(jobs, WorkUnit.segment(index))
        # When / Then
        claim = ask(jobs, WorkUnit.segment(index), ticket, "B")
        assert isinstance(claim, Claim)
        assert claim.render_class == ""
        commit(jobs, claim, handoff(index, render_class=made_by))


def test_a_wait_is_not_counted_again_after_a_claim(jobs: JobStore) -> None:
    # Given a segment that waited, and was claimed and released
    create(jobs)
    commit(jobs, claim_unit(jobs, WorkUnit.segment(0)), handoff(0, render_class="A"))
    ticket = announce(jobs, WorkUnit.segment(1))
    assert isinstance(ask(jobs, WorkUnit.segment(1), ticket, "B"), OtherClass)
    claim = ask(jobs, WorkUnit.segment(1), ticket, "A")
    assert isinstance(claim, Claim)
    jobs.release(claim)
    # Then the record says nothing of the wait any more
    assert b"class_wait" not in jobs._redis.hget(f"longtake:job:{JOB}:units", "segment")
