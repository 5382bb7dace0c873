"""What workers call, on job records and on their model; see `job_pair`."""

from __future__ import annotations

import json
from dataclasses import replace

from tasks.jobs.committed import TakeRequest
from tasks.jobs.keys import job_keys
from tasks.jobs.queues import list_key, queue_of
from tasks.jobs.records import ClipRecord, Handoff, Progress
from tasks.jobs.results import (
    Announcement,
    Claim,
    KeptRendering,
    NotChained,
    ReleaseOutcome,
)
from tasks.jobs.units import UnitKind, WorkUnit
from tests.tasks.jobs import take_model
from tests.tasks.jobs.holder_model import FRAMES
from tests.tasks.jobs.job_model import Job
from tests.tasks.jobs.pair_state import DEATH, FILM, Held, PairState
from tests.tasks.jobs.take_model import FILM_UNIT, SEGMENT_UNIT
from tests.tasks.jobs.unit_model import Message, Unit, clip_unit, repair_unit


class WorkerPair(PairState):
    """The part of `JobPair` that claims, renews, commits and gives back."""

    def deliver(self, message: Message) -> Held | None:
        """Deliver a message to a new worker; returns its claim, if one is granted."""
        job_id, unit, index, ticket = message
        self.holders += 1
        worker, node, job = f"worker {self.holders}", self._node(self.holders), self.model.job(job_id)
        work = WorkUnit.parse(unit, index)
        queue = queue_of(work)
        expected = job.deliver(message, self.holders, worker, node, self.model.queue(queue, job.priority))
        found = self.jobs.claim(job_id, work, ticket, worker, node=node, prefer_others=False)
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
        name = SEGMENT_UNIT if work.kind_asked_for == UnitKind.SEGMENT else unit
        expected = self.model.job(job_id).report_death(name, index, ticket, node, DEATH, self.attempts)
        found, released = self.jobs.report_death(job_id, work, ticket, node=node, reason=DEATH)
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
        if claim.segment and claim.index in job.lengths:
            assert claim.segment.frames == job.lengths[claim.index]
        assert claim.planned is None or job.has_place(claim.index), "nobody knows where a part is in the film"
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

    def decide(self, held: Held, frames: int) -> None:
        """Decide the length of the segment of a claim, and another one when that is repeated: the first one stays."""
        expected = self.model.job(held.job_id).decide(held.unit, held.holder, held.index, frames)
        for length in (frames, frames + 8):
            segment = self.jobs.decide_frames(held.claim, length)
            assert (segment and (segment.frames or FRAMES)) == expected

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
        if self.holds(held):  # a worker knows the length before it renders
            self.decide(held, 41 + 8 * (held.holder % 3))
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
        former = held.claim.own
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
