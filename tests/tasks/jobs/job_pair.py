"""Job records in Redis and their model, side by side: every call goes to both, and what comes back must be the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import redis

from tasks.errors import JobNotFoundError, JobStateError
from tasks.jobs.keys import PREFIX, job_keys
from tasks.jobs.queues import queue_of
from tasks.jobs.records import (
    AdmissionOutcome,
    Announcement,
    Claim,
    ClipRecord,
    FilmRecord,
    Handoff,
    JobStatus,
    NotChained,
    Progress,
    ReleaseOutcome,
    UnitKind,
    WorkUnit,
)
from tasks.jobs.store import JobStore
from tasks.spec.loader import check_spec
from tests.tasks.jobs.job_model import (
    FILM_UNIT,
    SEGMENT_UNIT,
    Deployment,
    Ending,
    Job,
    Message,
    Unit,
    clip_unit,
    repair_unit,
)

FILM = FilmRecord("sha256:f", 9, "f", 96, 64, "24", 50, 2.0, 24000, 48000)


@dataclass(frozen=True)
class Held:
    """A claim that was granted once, perhaps long lost, and the number by which the model knows its holder."""

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


class JobPair:
    """See the head of this module. `views`, `messages` and `claims` are all that anybody has ever known."""

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

    # Jobs come and go

    def create(self, job_id: str, segments: int, needs: int) -> None:
        taken = job_id in self.model.jobs
        spec = check_spec({"segments": [{"prompt": str(i)} for i in range(segments)]})
        assert self.jobs.create(job_id, spec, model="tiny", needs_bytes=needs) != taken
        if not taken:
            self.model.create(job_id, segments, needs, self.jobs.status(job_id).created_at)
            self.fences[job_id] = 0

    def admit(self) -> bool:
        """Whether one more job may be admitted now; one that never fits fails."""
        found = self.jobs.admit(self.model.budget)
        assert found == self.model.admit()
        if found.outcome == AdmissionOutcome.NEVER:
            self.stop(found.job_id, "failed", "no budget has room for it")
        return found.outcome != AdmissionOutcome.WAIT

    def stop(self, job_id: str, state: str, reason: str) -> None:
        was = self.model.job(job_id).stop(state, reason)
        assert self._state_before(lambda: self.jobs.stop(job_id, state, reason)) == was

    def pause(self, job_id: str) -> None:
        was = self.model.job(job_id).pause()
        assert self._state_before(lambda: self.jobs.pause(job_id)) == was

    def resume(self, job_id: str) -> None:
        was = self.model.job(job_id).resume()
        assert self._state_before(lambda: self.jobs.resume(job_id)) == was

    def revive(self, job_id: str, state: str) -> None:
        was = self.model.revive(job_id, state)
        assert self._state_before(lambda: self.jobs.revive(job_id, state)) == was

    def _state_before(self, change: Callable[[], str]) -> str:
        """The state a job was in, "" for one that nobody knows."""
        try:
            return change()
        except JobNotFoundError:
            return ""

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
        """What is due, as a publisher sees it."""
        expected, endings = self.model.job(job_id).survey(self.attempts)
        found = self.jobs.survey(job_id)
        assert sorted((n.unit.name, n.unit.index, n.why, n.stamp, n.ticket) for n in found) == expected
        if endings:  # several units were at their last attempt
            status = self.jobs.status(job_id)
            ending = Ending(status.reason, status.failed_segment, status.attempts)
            assert ending in endings
            self.model.job(job_id).ending = ending
        seen = [Message(job_id, need.unit.name, need.unit.index, need.ticket) for need in found]
        self.views += seen
        return seen

    def publish(
        self, view: Message, *, sent: bool = True, marked: bool = True, own: bool = False, busy: bool = False
    ) -> Message | None:
        """A publisher that acts on what it saw; it may die before it has sent the message, or marked that.

        own: its worker has a queue of its own. busy: others wait in the one that all workers share.
        """
        job_id, unit, index, seen = view
        queue, job = queue_of(WorkUnit.parse(unit, index)), self.model.job(job_id)
        if busy:
            self.redis.lpush(queue, "somebody else's")
        said = self.jobs.announce(job_id, WorkUnit.parse(unit, index), seen=seen, sticky=own)
        self.redis.delete(queue)
        ticket = job.announce(unit, index, seen, self.model.queue(queue), sticky=own and not busy)
        assert (said.ticket if said else 0) == ticket
        if not said or not sent:
            return None
        assert (said.sticky, said.segments) == (own and not busy, job.segments)
        message = Message(job_id, unit, index, ticket)
        self.messages.append(message)
        self._see(True, *message)
        if marked:
            self.mark(message)
        return message

    def mark(self, message: Message) -> None:
        if message.unit == SEGMENT_UNIT:
            self.jobs.chained(message.job_id, message.index)
            self.model.job(message.job_id).mark_chained(message.index)

    # Workers

    def deliver(self, message: Message) -> Held | None:
        """A new worker takes a message; its claim, if it gets one."""
        job_id, unit, index, ticket = message
        self.holders += 1
        worker, job = f"worker {self.holders}", self.model.job(job_id)
        wanted = WorkUnit.parse(unit, index)
        queue = queue_of(wanted)
        expected = job.deliver(message, self.holders, worker, self.model.queue(queue))
        kind = UnitKind.SEGMENT if wanted.kind == UnitKind.REPAIR else wanted.kind
        found = self.jobs.claim(job_id, kind, index, ticket, worker)
        assert self.jobs.queue_claimed(queue) == self.model.queue(queue).claimed
        if isinstance(found, Claim):
            assert expected, "it should have been refused"
            return self._granted(found, job)
        assert expected == (found.next_index if isinstance(found, NotChained) else None), found
        self._see(isinstance(found, NotChained), job_id, SEGMENT_UNIT, index + 1)
        return None

    def _granted(self, claim: Claim, job: Job) -> Held:
        assert self.fences[claim.job_id] < claim.fence == job.fences
        self.fences[claim.job_id] = claim.fence
        unit = job.units[claim.unit.name]
        assert unit.holder == self.holders
        assert (claim.epoch, claim.index) == (job.epoch, unit.index)
        renders = claim.unit.kind in (UnitKind.SEGMENT, UnitKind.REPAIR)
        assert (claim.previous.worker if claim.previous else None) == job.handoffs.get(claim.index - 1)
        assert (claim.own.worker if claim.own else None) == job.handoffs.get(claim.index)
        self.renders += renders
        self.claims.append(Held(claim, self.holders))
        return self.claims[-1]

    def holds(self, held: Held) -> Unit | None:
        """The unit, while the claim is not lost."""
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

    def linger(self, job_id: str) -> None:
        """Move what was announced into the past."""
        self.model.job(job_id).linger()
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
        self._see(found.outcome == ReleaseOutcome.RETRY, held.job_id, held.unit, held.index, found.ticket)

    def damage(self, held: Held, index: int) -> None:
        found = self.jobs.report_lost(held.claim, [index])
        assert found == self.model.job(held.job_id).damage(held.unit, held.holder, index)
        self._see(found, held.job_id, repair_unit(index), index)

    def reopen_clips(self, held: Held, indices: list[int]) -> None:
        found = self.jobs.report_lost(held.claim, indices)
        assert found == self.model.job(held.job_id).reopen_clips(held.holder, indices)
        for index in indices:
            self._see(found, held.job_id, clip_unit(index), index)

    def commit(self, held: Held, *, others: bool = False, clip_lost: bool = False, sticky: bool = False) -> Held | None:
        """Commit what a claim is about, a repair or a clip with the same or with `others`; the claim on its clip."""
        if held.unit == SEGMENT_UNIT:
            return self._commit_segment(held, sticky)
        if held.unit == repair_unit(held.index):
            return self._commit_repair(held, others, clip_lost)
        if held.unit == FILM_UNIT:
            assert self.jobs.commit_film(held.claim, FILM) == self.model.job(held.job_id).commit_film(held.holder)
            return None
        self._commit_clip(held, f"sha256:{held.holder if others else held.index}")
        return None

    def _commit_segment(self, held: Held, sticky: bool) -> Held | None:
        handoff = self._handoff(held)
        following = WorkUnit.segment(held.index + 1)
        queue = self.model.queue(queue_of(following))
        job = self.model.job(held.job_id)
        ticket = job.commit_segment(held.index, held.holder, handoff.worker, queue, sticky=sticky)
        committed = self.jobs.commit_segment(held.claim, handoff, sticky=sticky)
        assert (committed is None) == (ticket is None)
        if committed is None:
            return None
        self._announced(held.job_id, committed.following, ticket)
        return self._clip_of(held, committed.clip, handoff)

    def _announced(self, job_id: str, announced: Announcement | None, ticket: int | None) -> None:
        """The message that a commit announced; its worker may send it, or die before."""
        assert (announced.ticket if announced else 0) == ticket
        if announced:
            message = Message(job_id, announced.unit.name, announced.unit.index, announced.ticket)
            self.messages.append(message)
            self._see(True, *message)

    def _commit_repair(self, held: Held, others: bool, clip_lost: bool) -> Held | None:
        handoff = self._handoff(held)
        changed = handoff.worker if others else None
        accepted, goes_on = self.model.job(held.job_id).commit_repair(held.index, held.holder, changed, clip_lost)
        committed = self.jobs.commit_repair(held.claim, handoff, changed=others, clip_lost=clip_lost)
        assert (committed is not None, committed is not None and committed.clip is not None) == (accepted, goes_on)
        self._see(accepted, held.job_id, SEGMENT_UNIT, held.index + 1)
        return self._clip_of(held, committed.clip if committed else None, handoff)

    def _commit_clip(self, held: Held, blob_id: str) -> None:
        queue = self.model.queue(queue_of(WorkUnit.film()))
        found = self.jobs.commit_clip(held.claim, ClipRecord(held.index, blob_id, 1, 1))
        accepted, ticket = self.model.job(held.job_id).commit_clip(held.index, held.holder, blob_id, queue)
        assert found.accepted == accepted
        self._announced(held.job_id, found.film, ticket)

    def _handoff(self, held: Held) -> Handoff:
        return Handoff(held.index, {"payload": {}}, worker=f"by {held.holder}", fence=held.claim.fence)

    def _clip_of(self, held: Held, clip: Claim | None, handoff: Handoff) -> Held | None:
        if clip is None:
            return None
        assert clip == replace(held.claim, unit=WorkUnit.clip(held.index), own=handoff)
        self.claims.append(Held(clip, held.holder))
        return self.claims[-1]

    def _see(self, due: bool, job_id: str, unit: str, index: int, ticket: int = 0) -> None:
        """Somebody saw this message, or that one is due, and may act on it now or later."""
        if due:
            self.views.append(Message(job_id, unit, index, ticket))

    # What always holds

    def agree(self) -> None:
        jobs = self.model.jobs
        in_order = [job_id for _, job_id in sorted((job.created, job_id) for job_id, job in jobs.items())]
        statuses = list(self.jobs.statuses())
        assert [status.job_id for status in statuses] == in_order
        assert self.jobs.active() == [job_id for job_id in in_order if jobs[job_id].unfinished]
        assert self.jobs.reserved_bytes() == sum(self.model.reserved.values()) <= self.model.budget
        for status in statuses:
            self._agree_about(status, jobs[status.job_id])

    def _agree_about(self, status: JobStatus, job: Job) -> None:
        units, handoffs, clips = self._record(status.job_id)
        assert (status.state, status.committed, status.clips) == (job.state, job.cursor, len(job.clips))
        assert (status.epoch, status.admitted, status.film) == (job.epoch, job.admitted, FILM if job.film else None)
        assert (status.reason, status.failed_segment, status.attempts) == job.ending
        assert (status.started_at is not None) == job.started
        assert (status.progress.step if status.progress else None) == job.progress
        assert {index: Handoff.unpack(data).worker for index, data in handoffs.items()} == job.handoffs
        assert sorted(handoffs) == list(range(status.committed)), "a handoff has no predecessor"
        assert {index: ClipRecord.unpack(data).blob_id for index, data in clips.items()} == job.clips
        assert max(job.commits.values(), default=0) <= status.epoch + 1, "something was committed twice within an epoch"
        if status.finished:
            assert not units, "an ended job has work"
        else:
            self._has_a_way_on(job, units)

    def _has_a_way_on(self, job: Job, units: dict[str, dict[str, Any]]) -> None:
        """Nothing waits for what nobody will do, and whatever is missing is somebody's work."""
        for index in range(job.cursor):
            assert index in job.clips or clip_unit(index) in units, f"nobody makes the clip of segment {index}"
        moves = any(unit["token"] or unit["after"] not in units for unit in units.values())
        due = (job.cursor < job.segments and SEGMENT_UNIT not in units) or (job.all_clips and FILM_UNIT not in units)
        assert moves or due, f"nothing can be done: {units}"

    def _record(self, job_id: str) -> tuple[dict[str, dict[str, Any]], dict[int, bytes], dict[int, bytes]]:
        """The job's units, handoffs and clips as they are stored; one question instead of three."""
        pipeline = self.redis.pipeline()
        for key in job_keys(job_id, "units", "handoffs", "clips"):
            pipeline.hgetall(key)
        units, handoffs, clips = pipeline.execute()
        found = {name.decode(): json.loads(unit) for name, unit in units.items()}
        return found, *({int(index): data for index, data in stored.items()} for stored in (handoffs, clips))
