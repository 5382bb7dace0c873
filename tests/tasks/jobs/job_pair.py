"""Every call is made on job records and on their model, with equal results."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

import pytest
import redis

from tasks.errors import JobNotFoundError, JobStateError, RoomError
from tasks.jobs.committed import TakeRequest
from tasks.jobs.keys import PREFIX, job_keys
from tasks.jobs.queues import Priority, list_key, queue_of
from tasks.jobs.records import ClipRecord, FilmRecord, Handoff, JobStatus, Progress
from tasks.jobs.results import (
    AdmissionOutcome,
    Announcement,
    Claim,
    CreateOutcome,
    KeptRendering,
    NotChained,
    ReleaseOutcome,
)
from tasks.jobs.store import VANISHED_PER_ATTEMPT, JobStore
from tasks.jobs.units import UnitKind, WorkUnit
from tasks.spec.loader import check_spec
from tasks.spec.schema import SegmentSpec
from tests.tasks.jobs import take_model
from tests.tasks.jobs.deployment_model import Deployment
from tests.tasks.jobs.job_model import (
    FILM_UNIT,
    SEGMENT_UNIT,
    Ending,
    Job,
    Message,
    Unit,
    clip_unit,
    repair_unit,
)

DEATH = "the process died"
FILM = FilmRecord("sha256:f", 9, "f", 96, 64, "24", 50, 2.0, 24000, 48000)


@dataclass(frozen=True)
class Held:
    """A claim that was granted, perhaps lost since, and its holder in the model."""

    claim: Claim
    holder: int

    @property
    def job_id(self) -> str:
        return self.claim.job_id

    @property
    def unit(self) -> str:
        return self.claim.unit.name

    @property
    def index(self) -> int:
        return self.claim.index


def _segments(count: int, fades: Collection[int], cuts: Collection[int]) -> list[dict[str, str]]:
    transitions = dict.fromkeys(fades, "fade") | dict.fromkeys(cuts, "cut")
    return [{"prompt": str(i), "transition": transitions.get(i, "continue")} for i in range(count)]


class JobPair:
    """A job store and its model.

    `views`, `messages` and `claims` hold all that ever existed, including outdated ones.
    """

    def __init__(self, jobs: JobStore, client: redis.Redis, *, budget: int, attempts: int) -> None:
        self.jobs, self.redis = jobs, client
        self.model = Deployment(budget)
        self.attempts = attempts
        self.views: list[Message] = []
        self.messages: list[Message] = []
        self.claims: list[Held] = []
        self.fences: dict[str, int] = {}
        self.holders = 0
        self.renders = 0
        self.requests = 0

    # Jobs

    def create(
        self,
        job_id: str,
        segments: int,
        needs: int,
        *,
        is_open: bool = False,
        approve: bool = False,
        fades: bool = False,
        priority: Priority = Priority.NORMAL,
        cuts: Collection[int] = (),
    ) -> None:
        """fades: segment 1 is a new scene, and dissolves from segment 0."""
        taken = job_id in self.model.jobs
        cuts = {cut for cut in cuts if cut < segments}
        faded = frozenset({1} if fades and segments > 1 and 1 not in cuts else ())
        spec = check_spec({"segments": _segments(segments, faded, cuts), "open": is_open, "approve": approve})
        created = self.jobs.create(job_id, spec, model="tiny", needs_bytes=needs, priority=priority)
        assert created.outcome == (CreateOutcome.TAKEN if taken else CreateOutcome.CREATED)
        if not taken:
            status = self.jobs.status(job_id)
            assert status.priority == priority
            own = {"is_open": is_open, "approve": approve, "priority": priority, "cuts": cuts, "fades": faded}
            self.model.create(job_id, segments, needs, status.created_at, **own)
            self.fences[job_id] = 0

    def fork(self, job_id: str, source_id: str, share: int, segments: int) -> None:
        """Share at most `share` segments of another job."""
        if source_id not in self.model.jobs:
            with pytest.raises(JobNotFoundError):
                self.jobs.contents(source_id)
            return
        taken, count = job_id in self.model.jobs, min(share, segments, self.model.jobs[source_id].cursor)
        committed = self.jobs.contents(source_id).committed.first(count)
        source = self.model.jobs[source_id]
        spec = check_spec({"segments": _segments(segments, source.fades, source.cuts)})
        created = self.jobs.create(job_id, spec, model="tiny", needs_bytes=1, committed=committed)
        assert created.outcome == (CreateOutcome.TAKEN if taken else CreateOutcome.CREATED)
        if not taken:
            self.model.fork(job_id, source_id, count, segments, self.jobs.status(job_id).created_at)
            self.fences[job_id] = 0

    def admit(self) -> bool:
        """Do one step of admission; False when no job can be admitted now."""
        found = self.jobs.admit(self.model.budget)
        assert found == self.model.admit()
        if found.outcome == AdmissionOutcome.NEVER:
            self.stop(found.job_id, "failed", "larger than the budget")
        return found.outcome != AdmissionOutcome.WAIT

    def stop(self, job_id: str, state: str, reason: str) -> None:
        previous = self.model.job(job_id).stop(state, reason)
        assert self._previous_state(lambda token: self.jobs.stop(job_id, state, reason, request=token)) == previous

    def pause(self, job_id: str) -> None:
        previous = self.model.job(job_id).pause()
        assert self._previous_state(lambda token: self.jobs.pause(job_id, request=token)) == previous

    def resume(self, job_id: str) -> None:
        previous = self.model.job(job_id).resume()
        assert self._previous_state(lambda token: self.jobs.resume(job_id, request=token)) == previous

    def revive(self, job_id: str, state: str) -> None:
        previous = self.model.revive(job_id, state)
        assert self._previous_state(lambda token: self.jobs.revive(job_id, state, request=token)) == previous

    def _previous_state(self, change: Callable[[str], str]) -> str:
        """The state before `change`, "" for an unknown job. The same request again gets the same answer."""
        self.requests += 1
        try:
            previous = change(str(self.requests))
            assert change(str(self.requests)) == previous
            return previous
        except JobNotFoundError:
            return ""

    def retake(self, job_id: str, segments: range, count: int, needs: int) -> None:
        several = {"first": segments[0], "last": segments[-1]} if len(segments) > 1 else {}
        takes = [TakeRequest(**several)] * count * len(segments)
        options = {"needs_bytes": needs, "budget_bytes": self.model.budget}
        expected = self.model.retake(job_id, segments, count, needs)
        first = self._asked(expected, lambda token: self.jobs.retake(job_id, segments, takes, request=token, **options))
        for number in range(first or 0, first + count if first else 0):
            for index in segments:
                self._add_view(True, job_id, take_model.take_unit(index, number), index)

    def choose(self, job_id: str, index: int, number: int, needs: int) -> None:
        options = {"needs_bytes": needs, "budget_bytes": self.model.budget}
        expected = self.model.choose(job_id, index, number, needs)
        self._asked(expected, lambda token: self.jobs.choose(job_id, index, number, request=token, **options))

    def _asked(self, expected: int | str, ask: Callable[[str], Any]) -> int | None:
        """The reply to a request about takes, which is the same when it is repeated; None if it is refused."""
        self.requests += 1
        token = str(self.requests)
        if isinstance(expected, str):
            with pytest.raises(RoomError if expected == "full" else JobStateError):
                ask(token)
            return None
        found = ask(token)
        assert (found[0] if isinstance(found, list) else found) == expected
        assert ask(token) == found
        return expected

    def append(self, job_id: str, count: int, needs: int, *, is_cut: bool = False) -> None:
        """Append segments; the same request again adds nothing. is_cut: the first one is a cut."""
        is_cut = is_cut and self.model.job(job_id).segments > 0
        self.requests += 1
        prompts = [f"{self.requests}.{number}" for number in range(count)]
        expected, first = self.model.append(job_id, prompts, needs, is_cut=is_cut)
        transitions = ["cut" if is_cut else "continue", "continue"]
        segments = [
            SegmentSpec(prompt=prompt, transition=how) for prompt, how in zip(prompts, transitions, strict=False)
        ]
        for _ in range(2):
            try:
                found = self.jobs.append(
                    job_id, segments, needs_bytes=needs, budget_bytes=self.model.budget, request=str(self.requests)
                )
                assert (found.outcome, found.first if expected == "appended" else first) == (expected, first)
            except JobNotFoundError:
                assert expected == "missing"

    def replace_prompt(self, job_id: str, index: int) -> None:
        self.requests += 1
        prompt = f"another {self.requests}"
        if job_id not in self.model.jobs:
            return
        expected = self.model.job(job_id).replace_prompt(index, prompt)
        for _ in range(2):
            outcome, at = self.jobs.replace_segments(job_id, {index: {"prompt": prompt}})
            assert (outcome, at) == (expected, None if expected == "replaced" else index)

    def close_end(self, job_id: str) -> None:
        self.requests += 1
        job, token = self.model.job(job_id), str(self.requests)
        if not job.state or (job.open and not job.segments):
            with pytest.raises((JobNotFoundError, JobStateError)):
                self.jobs.close_end(job_id, request=token)
            return
        expected = job.close()
        assert [self.jobs.close_end(job_id, request=token) for _ in range(2)] == [expected, expected]

    def leave_open(self, job_id: str) -> None:
        """Have the job wait for segments for as long as it may."""
        job = self.model.job(job_id)
        if job.open:
            job.left_open = True
            self.redis.hset(job_keys(job_id, "record")[0], "waited_ms", 10**12)

    def approve(self, job_id: str, index: int | None) -> None:
        expected = self.model.job(job_id).approve(index)
        for _ in range(2):
            if expected == "approved":
                self.jobs.approve(job_id, index)
            else:
                with pytest.raises((JobNotFoundError, JobStateError)):
                    self.jobs.approve(job_id, index)

    def settle(self, job_id: str, used: int) -> None:
        self.jobs.settle(job_id, used)
        self.model.settle(job_id, used)

    def delete(self, job_id: str) -> None:
        if not self.model.delete(job_id):
            with pytest.raises(JobStateError):
                self.jobs.delete(job_id)
            return
        self.jobs.delete(job_id)
        assert not list(self.redis.scan_iter(f"{PREFIX}job:{job_id}:*"))
        for name in ("jobs", "active", "ended", "waiting"):
            assert self.redis.zscore(f"{PREFIX}{name}", job_id) is None

    # Publishers

    def survey(self, job_id: str) -> list[Message]:
        """The units that are due, as a publisher sees them."""
        expected, endings = self.model.job(job_id).survey(VANISHED_PER_ATTEMPT * self.attempts)
        found = self.jobs.survey(job_id)
        assert sorted((n.unit.name, n.unit.index, n.why, n.stamp, n.ticket) for n in found) == expected
        if endings:  # several units may be at their last attempt
            status = self.jobs.status(job_id)
            ending = Ending(status.reason, status.failed_segment, status.attempts)
            assert ending in endings
            self.model.job(job_id).ending = ending
        seen = [Message(job_id, need.unit.name, need.unit.index, need.ticket) for need in found]
        self.views += seen
        return seen

    def publish(
        self, view: Message, *, sent: bool = True, marked: bool = True, sticky: bool = False, busy: bool = False
    ) -> Message | None:
        """Announce and send the message of a view; returns it if it was sent.

        sent, marked: False when the publisher dies before it sends the message, or before it marks it as sent. sticky:
        its worker has a sticky queue. busy: another message waits in the shared queue.
        """
        job_id, unit, index, seen = view
        queue, job = queue_of(WorkUnit.parse(unit, index)), self.model.job(job_id)
        shared = list_key(queue, job.priority)
        if busy:
            self.redis.lpush(shared, "another message")
        announced = self.jobs.announce(job_id, WorkUnit.parse(unit, index), seen=seen, sticky=sticky)
        self.redis.delete(shared)
        ticket = job.announce(unit, index, seen, self.model.queue(queue, job.priority), sticky=sticky and not busy)
        assert (announced.ticket if announced else 0) == ticket
        if not announced or not sent:
            return None
        assert (announced.sticky, announced.segments) == (sticky and not busy, job.segments)
        assert announced.priority == job.priority
        message = Message(job_id, unit, index, ticket)
        self.messages.append(message)
        self._add_view(True, *message)
        if marked:
            self.mark(message)
        return message

    def mark(self, message: Message) -> None:
        if message.unit == SEGMENT_UNIT:
            self.jobs.chained(message.job_id, message.index)
            self.model.job(message.job_id).mark_chained(message.index)

    # Workers

    def deliver(self, message: Message) -> Held | None:
        """Deliver a message to a new worker; returns its claim, if one is granted."""
        job_id, unit, index, ticket = message
        self.holders += 1
        worker, node, job = f"worker {self.holders}", self._node(self.holders), self.model.job(job_id)
        work = WorkUnit.parse(unit, index)
        queue = queue_of(work)
        expected = job.deliver(message, self.holders, worker, node, self.model.queue(queue, job.priority))
        kind = UnitKind.SEGMENT if work.kind == UnitKind.REPAIR else work.kind
        found = self.jobs.claim(job_id, kind, index, ticket, worker, take=work.take, node=node, prefer_others=False)
        claimed = self.model.queue(queue, job.priority).claimed
        assert self.jobs.queue_states()[queue, job.priority].claimed == claimed
        if isinstance(found, Claim):
            assert expected, "the claim should have been refused"
            return self._granted(found, job)
        assert expected == (found.next_index if isinstance(found, NotChained) else None), found
        self._add_view(isinstance(found, NotChained), job_id, SEGMENT_UNIT, index + 1)
        return None

    @staticmethod
    def _node(holder: int) -> str:
        """The worker to which a holder belongs: there are two."""
        return f"node {holder % 2}"

    def report_death(self, message: Message, holder: int) -> None:
        """Report that the process of a holder died with this message; the reports of others change nothing."""
        job_id, unit, index, ticket = message
        work, node = WorkUnit.parse(unit, index), self._node(holder)
        kind = UnitKind.SEGMENT if work.kind == UnitKind.REPAIR else work.kind
        name = SEGMENT_UNIT if kind == UnitKind.SEGMENT else unit
        expected = self.model.job(job_id).report_death(name, index, ticket, node, DEATH, self.attempts)
        report = (job_id, kind, index, ticket)
        found, released = self.jobs.report_death(*report, take=work.take, node=node, reason=DEATH)
        assert (released.outcome, released.ticket) == expected
        self._add_view(released.outcome == ReleaseOutcome.RETRY, job_id, found.name, index, released.ticket)

    def _granted(self, claim: Claim, job: Job) -> Held:
        assert self.fences[claim.job_id] < claim.fence == job.fences
        self.fences[claim.job_id] = claim.fence
        unit = job.units[claim.unit.name]
        assert unit.holder == self.holders
        assert (claim.epoch, claim.index) == (job.epoch, unit.index)
        prompt = claim.segment.prompt if claim.segment else None
        following = job.prompts.get(claim.index + 1) if claim.segment else None
        assert (prompt, claim.next_prompt) == (job.prompts.get(claim.index), following)
        renders = claim.unit.kind in (UnitKind.SEGMENT, UnitKind.REPAIR, UnitKind.TAKE)
        if claim.unit.kind != UnitKind.FILM:
            self._check_lineage(claim, job)
        self.renders += renders
        self.claims.append(Held(claim, self.holders))
        return self.claims[-1]

    def _check_lineage(self, claim: Claim, job: Job) -> None:
        """Check which takes a claim reads."""
        index, number = claim.index, claim.unit.take
        own, other, other_index = job.handoffs.get(index), None, index
        if claim.unit.kind == UnitKind.CLIP:
            other_index = index + 1
            assert (claim.own_take, claim.other_take) == take_model.clip_shows(job, index)[:2]
            own = take_model.made_by(job, index, claim.own_take)
        elif claim.unit.kind == UnitKind.TAKE:
            take, own = job.takes[index, number], job.takes[index, number].made or None
            end = take.pinned_to if own else take_model.continued(job, index) if index == take.last else None
            assert claim.other_take == (-1 if end is None else end)
            assert claim.request
            assert claim.request.last == (None if claim.request.first is None else take.last)
        if claim.other_take != -1:
            other = take_model.made_by(job, other_index, claim.other_take)
        assert claim.from_take == take_model.from_take(job, index, number)
        before = take_model.made_by(job, index - 1, claim.from_take) if index else None
        found = [handoff.worker if handoff else None for handoff in (claim.previous, claim.own, claim.other)]
        assert found == [before, own, other]

    def holds(self, held: Held) -> Unit | None:
        """The unit, if the claim is not lost."""
        return self.model.job(held.job_id).held(held.unit, held.holder)

    def renew(self, held: Held, engine: bool | None, step: int | None) -> None:
        progress = None if step is None else Progress(held.index, step, 8, 0.5)
        renewed = self.jobs.renew(held.claim, engine=engine, progress=progress)
        assert renewed == self.model.job(held.job_id).renew(held.unit, held.holder, engine, step)

    def expire(self, held: Held) -> None:
        """Move the end of a lease into the past."""
        unit = self.holds(held)
        if unit:
            unit.expired = True
            key = job_keys(held.job_id, "units")[0]
            entry = json.loads(self.redis.hget(key, held.unit)) | {"expires": 1}
            self.redis.hset(key, held.unit, json.dumps(entry))

    def expire_sticky(self, job_id: str) -> None:
        """Move the announcement times of all messages into the past."""
        self.model.job(job_id).expire_sticky()
        key = job_keys(job_id, "units")[0]
        for name, raw in self.redis.hgetall(key).items():
            unit = json.loads(raw)
            if unit["announced"]:
                self.redis.hset(key, name, json.dumps(unit | {"announced": 1}))

    def release(self, held: Held, reason: str, *, final: bool) -> None:
        found = self.jobs.release(held.claim, reason, final=final)
        allowed = 1 if final else self.attempts
        expected = self.model.job(held.job_id).release(held.unit, held.holder, reason, allowed)
        assert (found.outcome, found.ticket) == expected
        self._add_view(found.outcome == ReleaseOutcome.RETRY, held.job_id, held.unit, held.index, found.ticket)

    def report_lost(self, held: Held, index: int, take: int) -> None:
        repair = WorkUnit.of_take(index, take)
        found = self.jobs.report_lost(held.claim, repair)
        assert found == self.model.job(held.job_id).report_lost(held.unit, held.holder, index, repair.name)
        self._add_view(found, held.job_id, repair.name, index)

    def reopen_clips(self, held: Held, indices: list[int]) -> None:
        found = self.jobs.report_lost_clips(held.claim, indices)
        assert found == self.model.job(held.job_id).reopen_clips(held.holder, indices)
        for index in indices:
            self._add_view(found, held.job_id, clip_unit(index), index)

    def commit(
        self,
        held: Held,
        *,
        changed: bool = False,
        clip_lost: bool = False,
        sticky: bool = False,
        busy: bool = False,
        others: int = 0,
    ) -> Held | None:
        """Commit the unit of a claim; returns the claim on its clip, if any.

        changed: a repair or a clip has other bytes. busy: a message of another job waits in the queue of segments.
        others: so many other renderings of a segment are kept.
        """
        if held.claim.unit.kind == UnitKind.SEGMENT:
            return self._commit_segment(held, sticky, busy, others)
        if held.unit == repair_unit(held.index):
            return self._commit_repair(held, changed, clip_lost)
        if held.claim.unit.kind == UnitKind.TAKE:
            self._commit_take(held, changed)
            return None
        if held.unit == FILM_UNIT:
            assert self.jobs.commit_film(held.claim, FILM) == self.model.job(held.job_id).commit_film(held.holder)
            return None
        self._commit_clip(held, f"sha256:{held.holder if changed else held.index}")
        return None

    def _commit_segment(self, held: Held, sticky: bool, busy: bool, others: int) -> Held | None:
        handoff, job, name = self._handoff(held), self.model.job(held.job_id), queue_of(WorkUnit.segment(held.index))
        clip = ClipRecord(held.index, f"another by {held.holder}", 1, 1)
        kept = [KeptRendering(TakeRequest(), handoff, clip)] * others
        queue, waiting = self.model.queue(name, job.priority), list_key(name, job.priority)
        how = {"sticky": sticky, "busy": busy, "others": others}
        expected = job.commit_segment(held.index, held.holder, handoff.worker, queue, **how)
        if busy:
            self.redis.lpush(waiting, "another message")
        committed = self.jobs.commit_segment(held.claim, handoff, others=kept, sticky=sticky)
        self.redis.delete(waiting)
        assert (committed is None) == (expected is None)
        if committed is None or expected is None:
            return None
        following, ticket = expected
        assert committed.following is None or committed.following.unit.index == following
        self._add_message(held.job_id, committed.following, ticket)
        return self._add_clip_claim(held, committed.clip, handoff)

    def _add_message(self, job_id: str, announced: Announcement | None, ticket: int | None) -> None:
        """Add the message that a commit announced; a worker that dies never sends it."""
        assert (announced.ticket if announced else 0) == ticket
        if announced:
            message = Message(job_id, announced.unit.name, announced.unit.index, announced.ticket)
            self.messages.append(message)
            self._add_view(True, *message)

    def _commit_repair(self, held: Held, changed: bool, clip_lost: bool) -> Held | None:
        handoff = self._handoff(held)
        made = handoff.worker if changed else None
        accepted, has_clip = self.model.job(held.job_id).commit_repair(held.index, held.holder, made, clip_lost)
        committed = self.jobs.commit_repair(held.claim, handoff, changed=changed, clip_lost=clip_lost)
        assert (committed is not None, committed is not None and committed.clip is not None) == (accepted, has_clip)
        self._add_view(accepted, held.job_id, SEGMENT_UNIT, held.index + 1)
        return self._add_clip_claim(held, committed.clip if committed else None, handoff)

    def _commit_take(self, held: Held, changed: bool) -> None:
        unit, made = held.claim.unit, self._handoff(held)
        job = self.model.job(held.job_id)
        dissolves_from = held.claim.from_take if unit.index in job.fades else -1
        clip = ClipRecord(
            unit.index, f"take {unit.take} by {held.holder}", 1, 1, take=unit.take, dissolves_from=dissolves_from
        )
        job, former = self.model.job(held.job_id), held.claim.own
        changed = changed and former is not None
        if former is not None and not changed:
            made = replace(made, worker=former.worker)
        expected = job.commit_take(unit.index, unit.take, held.holder, made.worker, made.pinned_to, changed)
        assert self.jobs.commit_take(held.claim, made, clip, changed=changed) == expected

    def _commit_clip(self, held: Held, blob_id: str) -> None:
        queue = self.model.queue(queue_of(WorkUnit.film()), self.model.job(held.job_id).priority)
        fades = held.index in self.model.job(held.job_id).fades
        shows = (held.claim.own_take, held.claim.other_take, held.claim.from_take if fades else -1)
        found = self.jobs.commit_clip(held.claim, ClipRecord(held.index, blob_id, 1, 1, *shows))
        accepted, ticket = self.model.job(held.job_id).commit_clip(held.index, held.holder, blob_id, queue, shows)
        assert found.accepted == accepted
        self._add_message(held.job_id, found.film, ticket)

    def _handoff(self, held: Held) -> Handoff:
        claim = held.claim
        job = self.model.job(held.job_id)
        fades, continued = held.index in job.fades, held.index > 0 and held.index not in job.fades | job.cuts
        lineage = {"continued": continued, "from_take": claim.from_take, "dissolve": int(fades)}
        lineage |= {"fence": claim.fence, "pinned_to": claim.other_take}
        return Handoff(held.index, {"payload": {}}, worker=f"by {held.holder}", **lineage)

    def _add_clip_claim(self, held: Held, clip: Claim | None, handoff: Handoff) -> Held | None:
        if clip is None:
            return None
        assert clip == replace(held.claim, unit=WorkUnit.clip(held.index), own=handoff)
        self.claims.append(Held(clip, held.holder))
        return self.claims[-1]

    def _add_view(self, due: bool, job_id: str, unit: str, index: int, ticket: int = 0) -> None:
        """Record what a publisher saw, so that it can act on it later."""
        if due:
            self.views.append(Message(job_id, unit, index, ticket))

    # Invariants

    def compare(self) -> None:
        jobs = self.model.jobs
        in_order = [job_id for _, job_id in sorted((job.created, job_id) for job_id, job in jobs.items())]
        statuses = list(self.jobs.statuses())
        assert [status.job_id for status in statuses] == in_order
        assert self.jobs.active() == [job_id for job_id in in_order if jobs[job_id].unfinished]
        assert self.jobs.reserved_bytes() == sum(self.model.reserved.values()) <= self.model.budget
        for status in statuses:
            self._compare_job(status, jobs[status.job_id])

    def _compare_job(self, status: JobStatus, job: Job) -> None:
        units, handoffs, clips = self._stored(status.job_id)
        assert (status.state, status.committed, status.clips) == (job.shown, job.cursor, len(job.clips))
        assert (status.segments, status.needs_bytes, status.open) == (job.segments, job.needs, job.open)
        assert (status.epoch, status.admitted, status.film) == (job.epoch, job.admitted, FILM if job.film else None)
        assert status.grown == job.grown
        assert (status.reason, status.failed_segment, status.attempts) == job.ending
        assert (status.started_at is not None) == job.started
        assert {job.key(progress.index): progress.step for progress in status.in_work} == job.progress
        assert status.rendered == len(job.handoffs)
        assert {index: Handoff.unpack(data).worker for index, data in handoffs.items()} == job.handoffs
        assert set(range(status.committed)) <= set(handoffs)
        orphans = {index for index in handoffs if index and index - 1 not in handoffs} - job.cuts
        assert not orphans, "a handoff has no predecessor"
        records = {index: ClipRecord.unpack(data) for index, data in clips.items()}
        assert {index: clip.blob_id for index, clip in records.items()} == job.clips
        for index, clip in records.items():
            found = (clip.take, clip.next_take, clip.dissolves_from)
            assert found == take_model.clip_shows(job, index), "a clip shows what was not chosen"
        self._compare_takes(status, job)
        assert max(job.commits.values(), default=0) <= status.epoch + 1, "something was committed twice within an epoch"
        if status.finished:
            assert not units, "an ended job has units"
        else:
            self._check_liveness(job, units)

    def _compare_takes(self, status: JobStatus, job: Job) -> None:
        takes = self.jobs.takes(status.job_id)
        assert takes.shown == job.shows
        made = {key: take.made for key, take in takes.takes.items() if take.number}
        assert {key: (m.worker, m.pinned_to) if m else ("", -1) for key, m in made.items()} == {
            key: (take.made, take.pinned_to) for key, take in job.takes.items()
        }
        clips = {key: take.clip for key, take in takes.takes.items() if take.clip}
        assert {key: (clip.blob_id, clip.dissolves_from) for key, clip in clips.items()} == job.own_clips
        assert all(clip.take == number for (_, number), clip in clips.items())
        for key, take in job.takes.items():
            assert bool(takes.takes[key].failed) == take.failed
            assert take.made or take.failed or take_model.take_unit(*key) in job.units, "a take was forgotten"
        assert status.takes_due == sum(take_model.is_next_of_take(job, name) for name in job.units)
        assert {(one.index, one.take): one.step for one in status.take_progress} == take_model.progress_of(job)

    def _check_liveness(self, job: Job, units: dict[str, dict[str, Any]]) -> None:
        """Check that every missing result has a unit, and that some unit can run."""
        for index in job.handoffs:
            assert index in job.clips or clip_unit(index) in units, f"no unit makes the clip of segment {index}"
        can_run = any(unit["token"] or unit["after"] not in units for unit in units.values())
        due = (job.startable() and not job.has_segment_unit) or (job.film_due and FILM_UNIT not in units)
        waits = job.awaits_approval or job.waits_for_segments
        assert can_run or due or waits, f"no unit can run: {units}"

    def _stored(self, job_id: str) -> tuple[dict[str, dict[str, Any]], dict[int, bytes], dict[int, bytes]]:
        """The stored units, handoffs and clips of a job, read in one round trip."""
        pipeline = self.redis.pipeline()
        for key in job_keys(job_id, "units", "handoffs", "clips"):
            pipeline.hgetall(key)
        units, handoffs, clips = pipeline.execute()
        parsed = {name.decode(): json.loads(unit) for name, unit in units.items()}
        return parsed, *({int(index): data for index, data in records.items()} for records in (handoffs, clips))
