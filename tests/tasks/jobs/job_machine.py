"""A state machine of hypothesis that applies events to job records and to their model.

Messages are late, repeated and out of order; publishers act on outdated views; holders continue after their lease
expired; replies are lost and calls repeated. At the end all workers stop, workers without faults replace them, and
every job must finish.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

import redis
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from tasks.jobs.queues import Priority
from tasks.jobs.store import JobStore
from tasks.jobs.units import START_INDEX
from tests.tasks.jobs.fault_free_end import finish_all
from tests.tasks.jobs.job_pair import JobPair
from tests.tasks.jobs.pair_state import Held
from tests.tasks.jobs.take_model import FILM_UNIT, SEGMENT_UNIT, can_have_takes
from tests.tasks.jobs.unit_model import Message, clip_unit, repair_unit

ATTEMPTS, BUDGET, SEGMENTS = 2, 4, 3
IDS = ["first", "second", "third"]
ENDS = ["stored", "stored", "failed", "died", "late and stored", "late and failed"]
ACTIONS = ["pause", "pause", "pause", "pause", "cancel", "fail", "settle", "revive", "delete", "keep", "unkeep"]
T = TypeVar("T")
Pick = tuple[bool, int]  # whether to pick a lost claim, and which one

cuts = st.sampled_from([set[int](), {1}, {2}, {1, 2}])
counts = st.sampled_from([SEGMENTS, 2, 1])
mostly = st.sampled_from([True, True, True, False])
autos = st.sampled_from([set[int](), set[int](), {0}, {1}, {0, 1, 2}])
lengths = st.sampled_from([1, 1, 2, 3])
places = st.sampled_from([0, 0, 0, 1, 1, 2, 3])
few = st.integers(0, 3) | st.integers(0, 15)
seldom = mostly.map(lambda often: not often)
picks = st.tuples(seldom, few)


def newest(items: list[T], nth: int) -> T:
    """The item `nth` places before the newest."""
    return items[-1 - nth % len(items)]


class JobMachine(RuleBasedStateMachine):
    """Jobs of one deployment, whose events hypothesis chooses."""

    def __init__(self, jobs: JobStore, client: redis.Redis) -> None:
        super().__init__()
        client.flushdb()
        self.pair = JobPair(jobs, client, budget=BUDGET, attempts=ATTEMPTS)

    # Users

    @initialize(segments=counts, is_open=seldom, approve=seldom, fades=seldom, cuts=cuts, autos=autos)
    def create_first(
        self, segments: int, is_open: bool, approve: bool, fades: bool, cuts: set[int], autos: set[int]
    ) -> None:
        own = {"is_open": is_open, "approve": approve, "fades": fades}
        self.pair.create("first", segments - is_open, 1, cuts=cuts, autos=autos, **own)
        self.pair.admit()

    @precondition(lambda self: len(self.pair.model.jobs) < len(IDS))
    @rule(
        job_id=st.sampled_from(IDS),
        segments=counts,
        needs=st.sampled_from([1, 1, 2, BUDGET, BUDGET + 1]),
        is_open=seldom,
        approve=seldom,
        cuts=cuts,
        priority=st.sampled_from(Priority),
    )
    def create(
        self,
        job_id: str,
        segments: int,
        needs: int,
        is_open: bool,
        approve: bool,
        cuts: set[int],
        priority: Priority,
    ) -> None:
        self.pair.create(
            job_id, segments - is_open, needs, is_open=is_open, approve=approve, priority=priority, cuts=cuts
        )

    @precondition(lambda self: len(self.pair.model.jobs) < len(IDS))
    @rule(job_id=st.sampled_from(IDS), place=places, share=st.integers(0, SEGMENTS), segments=counts)
    def fork(self, job_id: str, place: int, share: int, segments: int) -> None:
        self.pair.fork(job_id, self._job(place), share, segments)

    @precondition(lambda self: self.pair.model.waiting)
    @rule()
    def admit(self) -> None:
        self.pair.admit()

    @precondition(lambda self: not all(job.running for job in self.pair.model.jobs.values()))
    @rule(place=places)
    def resume(self, place: int) -> None:
        """Resume a paused job, revive a failed one, delete another ended one."""
        job_id = self._job(place, active=False)
        self.pair.resume(job_id)
        self.pair.revive(job_id, "failed")
        if self.pair.model.job(job_id).ended:
            self.pair.delete(job_id)

    @rule(place=places, action=st.sampled_from(ACTIONS), skip=st.booleans())
    def change_job(self, place: int, action: str, skip: bool) -> None:
        job_id, pair = self._job(place), self.pair
        actions: dict[str, Callable[[], None]] = {
            "pause": lambda: pair.pause(job_id),
            "cancel": lambda: pair.stop(job_id, "cancelled", "by user"),
            "fail": lambda: pair.stop(job_id, "failed", "by worker"),
            "settle": lambda: pair.settle(job_id, pair.model.job(job_id).needs // 2, late=place % 2 == 1),
            "revive": lambda: pair.revive(job_id, "done"),
            "delete": lambda: pair.delete(job_id),
            "keep": lambda: pair.keep(job_id, True),
            "unkeep": lambda: pair.keep(job_id, False),
        }
        if not skip:  # half of the steps change nothing
            actions[action]()

    @precondition(lambda self: self._with_segments())
    @rule(place=places, segment=few, length=lengths, count=st.integers(1, 2), needs=seldom, rendered=mostly)
    def retake(self, place: int, segment: int, length: int, count: int, needs: bool, rendered: bool) -> None:
        """Ask for takes of segments that are rendered, or of some that may not be."""
        jobs = self._with_segments()
        job_id = jobs[place % len(jobs)]
        end = self.pair.model.job(job_id).cursor + (not rendered)
        first = segment % end
        self.pair.retake(job_id, range(first, min(first + length, end)), count, int(needs))

    def _with_segments(self) -> list[str]:
        """The ids of jobs that have rendered segments, those that may have takes first."""
        jobs = {job_id: job for job_id, job in self.pair.model.jobs.items() if job.cursor}
        return sorted(jobs, key=lambda job_id: not can_have_takes(jobs[job_id]))

    @precondition(lambda self: self._rendered_takes())
    @rule(nth=few, other=st.sampled_from([None, None, 0, 1, 2, 3]), needs=seldom)
    def choose(self, nth: int, other: int | None, needs: bool) -> None:
        """Choose a take that is rendered, or another one of that segment."""
        job_id, segment, number = newest(self._rendered_takes(), nth)
        self.pair.choose(job_id, segment, number if other is None else other, int(needs))

    def _rendered_takes(self) -> list[tuple[str, int, int]]:
        jobs = self.pair.model.jobs.items()
        return [(job_id, *key) for job_id, job in jobs for key, take in job.takes.items() if take.made]

    @rule(
        place=places,
        count=st.integers(1, 2),
        needs=st.sampled_from([0, 0, 1, BUDGET]),
        active=mostly,
        cut=seldom,
        auto=seldom,
    )
    def append(self, place: int, count: int, needs: int, active: bool, cut: bool, auto: bool) -> None:
        """Append segments to a job that is active, or has ended."""
        job_id = self._job(place, active=active)
        if self.pair.model.job(job_id).segments <= SEGMENTS:
            self.pair.append(job_id, count, needs, is_cut=cut, is_auto=auto)

    @rule(place=places, name=st.sampled_from("ab"), active=mostly, size=st.integers(1, 2), ends=st.sampled_from(ENDS))
    def make_piece(self, place: int, name: str, active: bool, size: int, ends: str) -> None:
        """Reserve room for a piece for live players and store it, fail, or die; a late server only does the rest."""
        job_id = self._job(place, active=active)
        if "late" not in ends:
            self.pair.reserve_piece(job_id, name, size)
        if "stored" in ends:
            self.pair.note_piece(job_id, name)
        elif "failed" in ends:
            self.pair.release_piece(job_id, name)

    @rule(place=places, ahead=st.integers(-1, 2))
    def replace_prompt(self, place: int, ahead: int) -> None:
        job_id = self._job(place)
        self.pair.replace_prompt(job_id, max(0, self.pair.model.job(job_id).cursor + ahead))

    @precondition(lambda self: any(job.approved is not None for job in self.pair.model.jobs.values()))
    @rule(place=places, back=st.integers(0, 2), every=seldom)
    def approve(self, place: int, back: int, every: bool) -> None:
        """Approve what was rendered last, something before it, or what is not rendered yet."""
        job_id = self._job(place)
        index = self.pair.model.job(job_id).cursor + (-1, -2, 0)[back]
        self.pair.approve(job_id, None if every else max(0, index))

    @precondition(lambda self: any(job.open for job in self.pair.model.jobs.values()))
    @rule(place=places, is_left=st.booleans())
    def close_end(self, place: int, is_left: bool) -> None:
        """Close an open job, or leave it open for too long."""
        (self.pair.leave_open if is_left else self.pair.close_end)(self._job(place))

    def _job(self, place: int, *, active: bool = True) -> str:
        """The id of a job, active ones (or inactive ones) first; or an unknown id."""
        jobs = self.pair.model.jobs.items()
        is_active = {job_id: job.unfinished and job.admitted if active else job.running for job_id, job in jobs}
        names = [*sorted(is_active, key=lambda job_id: is_active[job_id] != active), "unknown"]
        return names[place if place < len(names) else 0]

    def _of(self, job_id: str, messages: list[Message]) -> list[Message]:
        """The messages of a job, or all if it has none."""
        return [message for message in messages if message.job_id == job_id] or messages

    # Publishers

    @rule(place=places, nth=few, survey=mostly, sent=mostly, marked=mostly, sticky=st.booleans(), busy=seldom)
    def publish(self, place: int, nth: int, survey: bool, sent: bool, marked: bool, sticky: bool, busy: bool) -> None:
        """Publish from a new survey or an outdated view."""
        job_id = self._job(place)
        if survey:
            self.pair.survey(job_id)
        if self.pair.views:
            view = newest(self._of(job_id, self.pair.views), nth)
            self.pair.publish(view, sent=sent, marked=marked, sticky=sticky, busy=busy)

    @rule(place=places)
    def expire_sticky(self, place: int) -> None:
        """End the time that the messages of a job may wait in a sticky queue."""
        self.pair.expire_sticky(self._job(place))

    @rule(place=places, nth=few, unit=st.sampled_from(["mark", SEGMENT_UNIT, "repair", "clip", FILM_UNIT]))
    def publish_wrongly(self, place: int, nth: int, unit: str) -> None:
        """Announce a unit that may not be due, or mark an old message as sent."""
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
    def claim_due(self, place: int) -> None:
        self._work(self._job(place), 0)

    @rule(place=places, steps=st.integers(1, 2))
    def work(self, place: int, steps: int) -> None:
        self._work(self._job(place), steps)

    def _work(self, job_id: str, steps: int) -> None:
        """Publish and deliver all due messages, then commit the claims.

        Without due messages, commit the current claims of the job.
        steps: 0 only claims, 1 also commits, 2 also commits the clips.
        """
        sent = [self.pair.publish(view) for view in self.pair.survey(job_id)]
        granted = [self.pair.deliver(message) for message in sent if message]
        granted = granted or [held for held in self._current() if held.job_id == job_id]
        for _ in range(steps):
            granted = [self.pair.commit(held) for held in granted if held]

    @precondition(lambda self: self._current())
    @rule(pick=picks, engine=st.none() | st.booleans(), step=st.none() | st.integers(1, 8))
    def renew(self, pick: Pick, engine: bool | None, step: int | None) -> None:
        self.pair.renew(self._claim(pick), engine, step)

    @precondition(lambda self: self._of_segments(self.pair.claims))
    @rule(pick=picks, longer=st.integers(0, 3))
    def decide(self, pick: Pick, longer: int) -> None:
        """Decide the length of a segment, by the holder of its claim or a former one, or of what is rendered again."""
        self.pair.decide(self._pick(pick, self._of_segments(self.pair.claims)), 41 + 8 * longer)

    @staticmethod
    def _of_segments(claims: list[Held]) -> list[Held]:
        return [held for held in claims if held.claim.segment]

    @precondition(lambda self: self._current())
    @rule(pick=picks, inside=st.booleans())
    def expire(self, pick: Pick, inside: bool) -> None:
        """Expire the lease of a claim; `inside`: its holder is in the engine."""
        held = self._claim(pick)
        if inside:
            self.pair.renew(held, True, None)
        self.pair.expire(held)

    @precondition(lambda self: self.pair.claims)
    @rule(
        pick=picks,
        changed=st.booleans(),
        clip_lost=st.booleans(),
        sticky=st.booleans(),
        busy=seldom,
        others=seldom.map(int),
    )
    def commit(self, pick: Pick, changed: bool, clip_lost: bool, sticky: bool, busy: bool, others: int) -> None:
        """Commit by the holder or a former one, or again after a lost reply."""
        held, how = self._claim(pick), {"sticky": sticky, "busy": busy}
        self.pair.commit(held, changed=changed, clip_lost=clip_lost, others=others, **how)

    @precondition(lambda self: self.pair.messages and self.pair.holders)
    @rule(place=places, nth=few, holder=few)
    def report_death(self, place: int, nth: int, holder: int) -> None:
        """Report the death of a process with a message that it had, or never had."""
        message = newest(self._of(self._job(place), self.pair.messages), nth)
        self.pair.report_death(message, self.pair.holders - holder)

    @precondition(lambda self: self._current())
    @rule(pick=picks, reason=st.sampled_from(["", "RuntimeError: no"]), retry=mostly)
    def release(self, pick: Pick, reason: str, retry: bool) -> None:
        self.pair.release(self._claim(pick), reason, final=not retry)

    @precondition(lambda self: self._with_input(self._current()))
    @rule(pick=picks, lost=st.sets(st.integers(0, SEGMENTS - 1), min_size=1))
    def report_lost(self, pick: Pick, lost: set[int]) -> None:
        """Report the lost input of a claim: clips, latents or a handoff."""
        held = self._pick(pick, self._with_input(self.pair.claims))
        if held.unit == FILM_UNIT:
            segments = self.pair.model.job(held.job_id).segments
            self.pair.reopen_clips(held, [index for index in range(segments) if index in lost])
        else:
            self.pair.report_lost(held, *self._input_of(held, min(lost)))

    def _input_of(self, held: Held, nth: int) -> tuple[int, int]:
        """Segment and take of something that the work on a claim reads."""
        claim, is_clip = held.claim, held.unit == clip_unit(held.index)
        inputs = [(held.index, claim.own_take)] if is_clip else [(held.index - 1, claim.from_take)]
        if not is_clip and self._begins_a_part(held):
            inputs = []
        if claim.other_take != -1:
            inputs.append((held.index + is_clip, claim.other_take))
        return inputs[nth % len(inputs)]

    def _begins_a_part(self, held: Held) -> bool:
        return held.index == 0 or held.index in self.pair.model.job(held.job_id).cuts

    def _with_input(self, claims: list[Held]) -> list[Held]:
        """The claims except those on first segments and their takes, unless they lead into an end."""
        return [
            held
            for held in claims
            if not self._begins_a_part(held) or held.unit == clip_unit(held.index) or held.claim.other_take != -1
        ]

    def _claim(self, pick: Pick) -> Held:
        return self._pick(pick, self.pair.claims)

    def _pick(self, pick: Pick, claims: list[Held]) -> Held:
        """A current claim; or a lost one, preferably one whose unit still exists."""
        late, nth = pick
        lost = [held for held in claims if not self.pair.holds(held)]
        with_unit = [held for held in lost if held.unit in self.pair.model.job(held.job_id).units]
        current = [held for held in claims if self.pair.holds(held)]
        return newest((with_unit or lost if late else current) or claims, nth)

    def _current(self) -> list[Held]:
        return [held for held in self.pair.claims if self.pair.holds(held)]

    # Invariants

    @invariant()
    def compare(self) -> None:
        self.pair.compare()

    def teardown(self) -> None:
        """Stop all workers, then finish all jobs without further faults."""
        if sys.exception() is None:
            finish_all(self.pair, lambda job_id: self._work(job_id, 2))
