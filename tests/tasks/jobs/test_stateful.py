"""Whatever messages, workers, publishers and people do, in any order, job records agree with a model of the protocol.

Messages come late, twice and in any order; publishers act on old views; holders come back after their lease; replies
are lost and calls repeated. In the end every worker is gone, fair ones take over, and every job must come to its end.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TypeVar

import pytest
import redis
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tasks.jobs.connection import connect
from tasks.jobs.records import START_INDEX
from tasks.jobs.store import JobStore
from tasks.settings import Settings
from tests.tasks.jobs.job_model import FILM_UNIT, SEGMENT_UNIT, Message, clip_unit, repair_unit
from tests.tasks.jobs.job_pair import FILM, Held, JobPair

ATTEMPTS, BUDGET, SEGMENTS = 2, 4, 3
LONG_LEASE_S = 3600.0  # leases end when a rule says so
LONG_MOMENT_MS = 3_600_000  # and so do moments
FAIR_ROUNDS = 30
IDS = ["first", "second", "third"]
WISHES = ["pause", "pause", "pause", "pause", "cancel", "fail", "settle", "join", "delete"]
SHORT_RUN = hypothesis_settings(
    max_examples=120,
    stateful_step_count=80,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
LONG_RUN = hypothesis_settings(
    SHORT_RUN,
    max_examples=int(os.environ.get("STATEFUL_EXAMPLES", "1500")),
    stateful_step_count=100,
)
T = TypeVar("T")
Pick = tuple[bool, int]  # whether a claim that is lost, and which one

counts = st.sampled_from([SEGMENTS, 2, 1])
mostly = st.sampled_from([True, True, True, False])
places = st.sampled_from([0, 0, 0, 1, 1, 2, 3])
few = st.integers(0, 3) | st.integers(0, 15)
seldom = mostly.map(lambda often: not often)
claims = st.tuples(seldom, few)


def newest(things: list[T], nth: int) -> T:
    """The newest one, or one `nth` places before it."""
    return things[-1 - nth % len(things)]


class JobMachine(RuleBasedStateMachine):
    def __init__(self, jobs: JobStore, client: redis.Redis) -> None:
        super().__init__()
        client.flushdb()
        self.pair = JobPair(jobs, client, budget=BUDGET, attempts=ATTEMPTS)

    # People

    @initialize(segments=counts)
    def begin(self, segments: int) -> None:
        self.pair.create("first", segments, 1)
        self.pair.admit()

    @precondition(lambda self: len(self.pair.model.jobs) < len(IDS))
    @rule(job_id=st.sampled_from(IDS), segments=counts, needs=st.sampled_from([1, 1, 2, BUDGET, BUDGET + 1]))
    def create(self, job_id: str, segments: int, needs: int) -> None:
        self.pair.create(job_id, segments, needs)

    @precondition(lambda self: self.pair.model.waiting)
    @rule()
    def admit(self) -> None:
        self.pair.admit()

    @precondition(lambda self: not all(job.running for job in self.pair.model.jobs.values()))
    @rule(place=places)
    def go_on(self, place: int) -> None:
        """What stands still is taken up, what cannot be is forgotten."""
        job_id = self._job(place, in_hand=False)
        self.pair.resume(job_id)
        self.pair.revive(job_id, "failed")
        if self.pair.model.job(job_id).ended:
            self.pair.delete(job_id)

    @rule(place=places, what=st.sampled_from(WISHES), spare=st.booleans())
    def meddle(self, place: int, what: str, spare: bool) -> None:
        job_id, pair = self._job(place), self.pair
        wishes: dict[str, Callable[[], None]] = {
            "pause": lambda: pair.pause(job_id),
            "cancel": lambda: pair.stop(job_id, "cancelled", "enough"),
            "fail": lambda: pair.stop(job_id, "failed", "hopeless"),
            "settle": lambda: pair.settle(job_id, pair.model.job(job_id).needs // 2),
            "join": lambda: pair.revive(job_id, "done"),
            "delete": lambda: pair.delete(job_id),
        }
        if not spare:
            wishes[what]()

    def _job(self, place: int, *, in_hand: bool = True) -> str:
        """One of the jobs that there are, those that are in hand (or stand still) first; or one that nobody knows."""
        jobs = self.pair.model.jobs.items()
        moves = {job_id: job.running if not in_hand else job.unfinished and job.admitted for job_id, job in jobs}
        names = [*sorted(moves, key=lambda job_id: moves[job_id] != in_hand), "nobody"]
        return names[place if place < len(names) else 0]

    def _of(self, job_id: str, things: list[Message]) -> list[Message]:
        return [message for message in things if message.job_id == job_id] or things

    # Publishers

    @rule(place=places, nth=few, look=mostly, sent=mostly, marked=mostly, own=st.booleans(), busy=seldom)
    def publish(self, place: int, nth: int, look: bool, sent: bool, marked: bool, own: bool, busy: bool) -> None:
        """By one that has just looked, or that has an old view; it may die before the message is sent, or marked."""
        job_id = self._job(place)
        if look:
            self.pair.survey(job_id)
        if self.pair.views:
            view = newest(self._of(job_id, self.pair.views), nth)
            self.pair.publish(view, sent=sent, marked=marked, own=own, busy=busy)

    @rule(place=places)
    def linger(self, place: int) -> None:
        """What was sent is not taken for a moment."""
        self.pair.linger(self._job(place))

    @rule(place=places, nth=few, unit=st.sampled_from(["mark", SEGMENT_UNIT, "repair", "clip", FILM_UNIT]))
    def publish_confused(self, place: int, nth: int, unit: str) -> None:
        """What nobody asked for, or a late mark of a message sent long ago."""
        if unit != "mark":
            name = {"repair": repair_unit(nth), "clip": clip_unit(nth)}.get(unit, unit)
            self.pair.publish(Message(self._job(place), name, START_INDEX if unit == FILM_UNIT else nth, 0))
        elif self.pair.messages:
            self.pair.mark(newest(self.pair.messages, nth))

    # Workers

    @precondition(lambda self: self.pair.messages)
    @rule(place=places, nth=few)
    def deliver(self, place: int, nth: int) -> None:
        self.pair.deliver(newest(self._of(self._job(place), self.pair.messages), nth))

    @rule(place=places)
    def begin_work(self, place: int) -> None:
        self._work(self._job(place), 0)

    @rule(place=places, steps=st.integers(1, 2))
    def work(self, place: int, steps: int) -> None:
        self._work(self._job(place), steps)

    def _work(self, job_id: str, steps: int) -> None:
        """Publish all that is due and deliver it; the workers begin, or commit, or make the clip, too.

        When nothing was due, those go on that have begun.
        """
        sent = [self.pair.publish(view) for view in self.pair.survey(job_id)]
        given = [self.pair.deliver(message) for message in sent if message]
        given = given or [held for held in self._current() if held.job_id == job_id]
        for _ in range(steps):
            given = [self.pair.commit(held) for held in given if held]

    @precondition(lambda self: self._current())
    @rule(claim=claims, engine=st.none() | st.booleans(), step=st.none() | st.integers(1, 8))
    def renew(self, claim: Pick, engine: bool | None, step: int | None) -> None:
        self.pair.renew(self._claim(claim), engine, step)

    @precondition(lambda self: self._current())
    @rule(claim=claims, inside=st.booleans())
    def vanish(self, claim: Pick, inside: bool) -> None:
        """The holder is not heard of again, or late; it was inside the engine, or wherever it was before."""
        held = self._claim(claim)
        if inside:
            self.pair.renew(held, True, None)
        self.pair.expire(held)

    @precondition(lambda self: self.pair.claims)
    @rule(claim=claims, others=st.booleans(), clip_lost=st.booleans(), sticky=st.booleans())
    def commit(self, claim: Pick, others: bool, clip_lost: bool, sticky: bool) -> None:
        """By the holder, by one that comes late, or again because the reply was lost."""
        self.pair.commit(self._claim(claim), others=others, clip_lost=clip_lost, sticky=sticky)

    @precondition(lambda self: self._current())
    @rule(claim=claims, reason=st.sampled_from(["", "RuntimeError: no"]), retry=mostly)
    def release(self, claim: Pick, reason: str, retry: bool) -> None:
        self.pair.release(self._claim(claim), reason, final=not retry)

    @precondition(lambda self: self._with_input(self._current()))
    @rule(claim=claims, lost=st.sets(st.integers(0, SEGMENTS - 1), min_size=1))
    def miss_input(self, claim: Pick, lost: set[int]) -> None:
        """The film misses clips, a clip the latents of its segment, a segment the state before it."""
        held = self._pick(claim, self._with_input(self.pair.claims))
        if held.unit == FILM_UNIT:
            own_settings = range(self.pair.model.job(held.job_id).segments)
            self.pair.reopen_clips(held, [index for index in own_settings if index in lost])
        else:
            self.pair.damage(held, held.index if held.unit == clip_unit(held.index) else held.index - 1)

    def _with_input(self, claims: list[Held]) -> list[Held]:
        """All but those on first segments, which begin with nothing."""
        return [held for held in claims if held.unit not in (SEGMENT_UNIT, repair_unit(0)) or held.index > 0]

    def _claim(self, claim: Pick) -> Held:
        return self._pick(claim, self.pair.claims)

    def _pick(self, claim: Pick, claims: list[Held]) -> Held:
        """One that is held still; or one that is lost, best one whose unit somebody else has now."""
        late, nth = claim
        lost = [held for held in claims if not self.pair.holds(held)]
        rivals = [held for held in lost if held.unit in self.pair.model.job(held.job_id).units]
        current = [held for held in claims if self.pair.holds(held)]
        return newest((rivals or lost if late else current) or claims, nth)

    def _current(self) -> list[Held]:
        return [held for held in self.pair.claims if self.pair.holds(held)]

    # What always holds

    @invariant()
    def agree(self) -> None:
        self.pair.agree()

    def teardown(self) -> None:
        """Every worker is gone; what is paused or failed is taken up, and fair workers bring all jobs to their end."""
        if sys.exception() is None:
            self._finish_all()

    def _finish_all(self) -> None:
        jobs = self.pair.model.jobs
        for held in self.pair.claims:
            self.pair.expire(held)
        for job_id, job in jobs.items():
            self.pair.resume(job_id)
            self.pair.survey(job_id)
            if job.needs <= BUDGET:
                self.pair.revive(job_id, "failed")
        for job_id in [job_id for job_id, job in jobs.items() if not job.unfinished]:
            self.pair.delete(job_id)
        while jobs:
            while self.pair.admit():
                pass
            ready = [job_id for job_id, job in jobs.items() if job.admitted or not job.unfinished]
            if ready:
                self._finish(ready[0])
                self.pair.delete(ready[0])
            else:
                self._forget_one_that_keeps_room_from_another()

    def _forget_one_that_keeps_room_from_another(self) -> None:
        """Jobs that were taken up again may need more than there is beside the blobs of others: a person chooses."""
        retried = [job_id for job_id in self.pair.model.waiting if job_id in self.pair.model.reserved]
        assert len(retried) > 1, "a job waits for room that nobody keeps from it"
        self.pair.stop(min(retried), "cancelled", "another one is worth more")
        self.pair.delete(min(retried))

    def _finish(self, job_id: str) -> None:
        job = self.pair.model.job(job_id)
        fits, renders = job.unfinished, self.pair.renders + job.renders_left()
        for _ in range(FAIR_ROUNDS):
            if job.unfinished:
                self._work(job_id, 2)
                self.pair.agree()
        assert not job.unfinished, f"there is no end in sight: {job}"
        if fits:
            assert self.pair.jobs.status(job_id).film == FILM
            assert self.pair.renders == renders


def check(settings: Settings, how: hypothesis_settings) -> None:
    patient = settings.model_copy(update={"lease_s": LONG_LEASE_S, "max_attempts": ATTEMPTS})
    with connect(settings.redis_url) as client:
        jobs = JobStore(client, patient)
        jobs._sticky_wait_ms = LONG_MOMENT_MS
        run_state_machine_as_test(lambda: JobMachine(jobs, client), settings=how)


@pytest.mark.timeout(900)  # a failure is made small before it is shown
def test_job_records_agree_with_a_model(settings: Settings) -> None:
    check(settings, SHORT_RUN)


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_job_records_agree_with_a_model_for_long(settings: Settings) -> None:
    check(settings, LONG_RUN)
