"""Job records in Redis. Every change is one Lua script, which opens with its keys and what it guarantees."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import redis

from tasks.errors import RecordError, VersionError
from tasks.jobs.changes.edits import EditStore
from tasks.jobs.changes.lifetimes import LifetimeStore
from tasks.jobs.changes.one_way import OneWay
from tasks.jobs.changes.pieces import PieceStore
from tasks.jobs.changes.takes import TakeStore
from tasks.jobs.changes.writer import is_newer_reply, new_token
from tasks.jobs.committed import TakeRequest
from tasks.jobs.keys import (
    ACTIVE,
    ENDED,
    JOBS,
    PULSE,
    RECORD_AFFIXES,
    job_keys,
    queue_key,
)
from tasks.jobs.queues import STICKY_PREFIX, Priority, list_key, queue_of
from tasks.jobs.reading.specs import read_head, read_segment
from tasks.jobs.records import ClipRecord, FilmRecord, Handoff, Progress, pack_segment
from tasks.jobs.results import (
    Announcement,
    Claim,
    ClaimResult,
    ClipCommit,
    FailedHere,
    KeptRendering,
    Need,
    NeedReason,
    NotChained,
    OtherClass,
    Refused,
    Released,
    ReleaseOutcome,
    RepairCommit,
    SegmentCommit,
)
from tasks.jobs.units import JobState, WorkUnit
from tasks.settings import Settings
from tasks.spec.segments import SegmentSpec

# A message in a sticky queue waits no longer than this before every worker can take its unit.
STICKY_WAIT_S = 1.0
STICKY_QUEUE_LIFE_S = 30  # shorter than the time between two sweeps
# A claim that expires may mean a dead worker or a lost network, so more of them are allowed than failed attempts.
VANISHED_PER_ATTEMPT = 3
# So long after a failure, a worker leaves the unit to others that have not failed it.
PREFER_OTHERS_S = 60.0
ONE_WAY = ("chained", "renew")


class JobStore(LifetimeStore, EditStore, TakeStore, PieceStore):
    """The job records of one deployment: messages, the right to work, and results."""

    def __init__(self, client: redis.Redis, settings: Settings, *, patient: bool = False) -> None:
        super().__init__(client, patient=patient)
        self._one_way = OneWay(client.connection_pool, [self._scripts[name].script for name in ONE_WAY])
        self._lease_ms = int(settings.lease_s * 1000)
        self._sticky_wait_ms = int(STICKY_WAIT_S * 1000)
        self._attempts = settings.max_attempts
        self._open_ms = int(settings.open_s * 1000)

    def close(self) -> None:
        """Close the connections."""
        self._one_way.close()
        super().close()

    # Messages

    def announce(self, job_id: str, unit: WorkUnit, *, seen: int = 0, sticky: bool = False) -> Announcement | None:
        """Reserve the ticket of the next message about `unit`, in place of the one with the ticket `seen` (0: none).

        sticky: the publisher's worker has a sticky queue and prefers it. None when no message is due, or when another
        one was announced since.
        """
        keys = [*job_keys(job_id, "record", "units", "clips"), *_queue_keys(unit), *job_keys(job_id, "spec")]
        reply = self._run("announce", keys, unit.name, unit.index, seen, int(sticky))
        return _announcement(unit, reply)

    def chained(self, job_id: str, index: int, *, wait: bool = True) -> None:
        """Mark that the message of segment `index` was published. wait: False to return before it is recorded."""
        mark = self._run if wait else self._send
        mark("chained", job_keys(job_id, "record"), index)

    def expire_sticky_queues(self) -> None:
        """Have messages in sticky queues expire soon: their workers are gone, and other workers got the work."""
        for queue in self._redis.scan_iter(match=f"{STICKY_PREFIX}*", count=1000):
            self._redis.expire(queue, STICKY_QUEUE_LIFE_S)

    # The right to work

    def claim(
        self,
        job_id: str,
        unit: WorkUnit,
        ticket: int,
        worker: str,
        *,
        node: str = "",
        prefer_others: bool = True,
        render_class: str = "",
        class_wait_s: float = 0.0,
    ) -> ClaimResult:
        """Claim what a message about `unit` is about: of a segment its rendering, or its repair if it is committed.

        worker: the name of this process. node: its worker, the same for all processes of one. prefer_others: leave a
        unit that failed on this node lately to another one. render_class: of this worker, '' if it is not known.
        class_wait_s: for so long after a worker of another class first asked, a unit is left to workers of its own.

        Raises:
            VersionError: a newer major version wrote the job. Nothing was changed.
            RecordError: what the claim reads is damaged; the job has failed.
        """
        token, index, queue = new_token(), unit.index, queue_of(unit)
        keys = [*job_keys(job_id, "record", "units", "spec", "handoffs"), queue_key(queue), *job_keys(job_id, "takes")]
        period_ms = int(PREFER_OTHERS_S * 1000) if prefer_others and node else 0
        message = (unit.kind_asked_for, index, ticket)
        by = (token, self._lease_ms, worker, node, period_ms, unit.take, render_class, int(class_wait_s * 1000))
        try:
            outcome, *reply = self._run("claim", keys, *message, *by)
        except RecordError as error:
            self.stop(job_id, JobState.FAILED, str(error))
            raise
        if outcome == b"newer":
            raise VersionError(f"job {job_id}")
        if outcome == b"committed":
            return NotChained(index + 1) if reply[0] else Refused(f"segment {index} is committed")
        if outcome == b"refused":
            return Refused(reply[0].decode())
        if outcome == b"failed here":
            name, newest, *nodes = reply
            return FailedHere(WorkUnit.parse(name.decode(), index), newest, frozenset(node.decode() for node in nodes))
        if outcome == b"other class":
            name, newest, wanted = reply
            return OtherClass(WorkUnit.parse(name.decode(), index), newest, wanted.decode())
        fence, epoch, now_ms, name, *contents = reply
        unit = WorkUnit.parse(name.decode(), index)
        try:
            claim = _claim(job_id, unit, token, fence, epoch, now_ms / 1000 - time.time(), contents)
            is_ahead = claim.segment is not None and index > 0 and claim.previous is None
            return replace(claim, planned=self.planned_timing(job_id, index)) if is_ahead else claim
        except RecordError as error:
            self._release(job_id, unit, token, str(error), allowed=1)
            raise

    def decide_frames(self, claim: Claim, frames: int) -> SegmentSpec | None:
        """Give the claim's segment, of `frames: auto`, its length, unless it has one; its spec from now on.

        None: the claim was lost.
        """
        units, spec = job_keys(claim.job_id, "units", "spec")
        stored = cast("bytes | None", self._redis.hget(spec, str(claim.index)))
        if stored is None:  # the job was deleted
            return None
        segment = read_segment(stored)
        decided = pack_segment(segment.model_copy(update={"frames": frames})) if segment.is_undecided else stored
        now = self._run("decide", [units, spec], claim.unit.name, claim.token, claim.index, stored, decided)
        return read_segment(now) if now else None

    def renew(self, claim: Claim, *, engine: bool | None = None, progress: Progress | None = None) -> bool:
        """Renew the lease; False when it is lost (another holder, or the job has ended).

        engine: whether the holder is inside the engine call from now on; None: no change.
        """
        return bool(self._run("renew", *self._renewal(claim, engine, progress)))

    def mark_engine(self, claim: Claim, inside: bool) -> None:
        """Renew as `renew(engine=inside)` does, without waiting until it is recorded."""
        self._send("renew", *self._renewal(claim, inside))

    def _renewal(self, claim: Claim, engine: bool | None, progress: Progress | None = None) -> tuple[Any, ...]:
        where = "" if engine is None else "engine" if engine else "outside"
        text = "" if progress is None else json.dumps([progress.index, progress.step, progress.steps, progress.step_s])
        return job_keys(claim.job_id, "record", "units"), claim.unit.name, claim.token, self._lease_ms, where, text

    def release(self, claim: Claim, reason: str = "", *, final: bool = False) -> Released:
        """Release the claim; with a reason this counts as a failed attempt. final: no attempt is left."""
        allowed = 1 if final else self._attempts
        return self._release(claim.job_id, claim.unit, claim.token, reason, allowed=allowed)

    def report_death(
        self, job_id: str, unit: WorkUnit, ticket: int, *, node: str, reason: str
    ) -> tuple[WorkUnit, Released]:
        """Report that a process of `node` that had this message died; returns its unit, and what became of it.

        If it died while it loaded, rendered or encoded, that is a failed attempt, also when its lease has expired
        meanwhile. A message that it had not claimed is due again.
        """
        keys = [*job_keys(job_id, "record", "units"), ACTIVE, ENDED, *job_keys(job_id, "takes")]
        args = (job_id, unit.kind_asked_for, unit.index, ticket, node, reason, self._attempts, unit.take)
        outcome, newest, name = self._run("report_death", keys, *args)
        claimed = WorkUnit.parse(name.decode(), unit.index) if name else unit
        return claimed, Released(ReleaseOutcome(outcome.decode()), int(newest))

    def commit_segment(
        self, claim: Claim, handoff: Handoff, *, others: Sequence[KeptRendering] = (), sticky: bool = False
    ) -> SegmentCommit | None:
        """Make the handoff real, take the lease of the clip, and announce the next segment; None: the claim was lost.

        In a parallel job the next one may be of another part. others: renderings that become takes of the segment.
        sticky: see `announce`.
        """
        keys = [*job_keys(claim.job_id, "record", "units", "handoffs"), *_queue_keys(WorkUnit.segment(claim.index))]
        keys += job_keys(claim.job_id, "clips", "takes", "spec")
        accepted, *reply = self._run(
            "commit_segment",
            keys,
            claim.index,
            claim.token,
            handoff.pack(),
            self._lease_ms,
            int(sticky),
            *(part.pack() for other in others for part in (other.request, other.made, other.clip)),
        )
        if not accepted:
            return None
        following = _announcement(WorkUnit.segment(reply[0]), reply[1:]) if reply else None
        return SegmentCommit(_clip_claim(claim, handoff), following)

    def commit_repair(self, claim: Claim, handoff: Handoff, *, changed: bool, clip_lost: bool) -> RepairCommit | None:
        """Make a repaired handoff real; None: the claim was lost.

        changed: its bytes are not those of before, so later commits are discarded. clip_lost: the clip is made again
        in any case.
        """
        keys = job_keys(claim.job_id, "record", "units", "handoffs", "clips", "takes", "spec")
        packed = handoff.pack() if changed else b""
        reply = self._run("commit_repair", keys, claim.index, claim.token, packed, self._lease_ms, int(clip_lost))
        if not reply:
            return None
        return RepairCommit(_clip_claim(claim, handoff) if reply == 2 else None)

    def commit_clip(self, claim: Claim, clip: ClipRecord) -> ClipCommit:
        """Make the clip real, unless other takes were chosen, and announce the film after the last one."""
        film = WorkUnit.film()
        keys = [*job_keys(claim.job_id, "record", "units", "clips"), *_queue_keys(film)]
        keys += job_keys(claim.job_id, "handoffs", "takes")
        accepted, *reply = self._run("commit_clip", keys, claim.index, claim.token, clip.pack())
        return ClipCommit(bool(accepted), _announcement(film, reply))

    def commit_film(self, claim: Claim, film: FilmRecord) -> bool:
        """Make the film real; the job is done, unless takes are to be rendered. False when the claim was lost."""
        keys = [*job_keys(claim.job_id, "record", "units"), ACTIVE, ENDED, *job_keys(claim.job_id, "takes")]
        return bool(self._run("commit_film", keys, claim.job_id, claim.token, film.pack()))

    def commit_take(self, claim: Claim, made: Handoff, clip: ClipRecord, *, changed: bool) -> bool:
        """Make a take real; False when the claim was lost.

        changed: it was rendered again, and its bytes are not those of before, so what was made from it is discarded.
        """
        keys = [*job_keys(claim.job_id, "record", "units", "handoffs", "clips", "takes"), ACTIVE, ENDED]
        keys += job_keys(claim.job_id, "spec")
        unit, is_same = claim.unit, int(not changed)
        args = (claim.job_id, unit.index, unit.take, claim.token, made.pack(), clip.pack(), is_same)
        return bool(self._run("commit_take", keys, *args))

    def report_lost(self, claim: Claim, lost: WorkUnit) -> bool:
        """Give the claim back until `lost`, a repair or a take, makes its input again; False: the claim was lost."""
        return self._report_lost(claim, lost.index, lost.name)

    def report_lost_clips(self, claim: Claim, indices: Sequence[int]) -> bool:
        """Give the claim on a film back until the clips of these segments are made again; False: the claim was lost."""
        return self._report_lost(claim, *indices)

    def _report_lost(self, claim: Claim, *lost: str | int) -> bool:
        keys = job_keys(claim.job_id, "record", "units", "clips")
        return bool(self._run("report_lost", keys, claim.unit.name, claim.token, *lost))

    # Recovery

    def pulse(
        self,
        *,
        silence_s: float,
        grace_s: float,
        budget_bytes: int | None,
        after_outage: bool = False,
        counted_s: float | None = None,
    ) -> bool:
        """Record that this process reaches Redis; returns whether no process did for `silence_s`.

        After that, or with `after_outage`, no lease ends for `grace_s`. The budget for blobs is recorded too, so that
        clients use that of the workers. counted_s: since this process's pulse before, by its own clock; None: its
        first. If Redis' clock says much more, it was set forward.
        """
        counted = "" if counted_s is None else int(counted_s * 1000)
        arguments = (int(silence_s * 1000), int(grace_s * 1000), budget_bytes or 0, int(after_outage), counted)
        return bool(self._run("pulse", [PULSE, ENDED, JOBS], *arguments, *RECORD_AFFIXES))

    def survey(self, job_id: str) -> list[Need]:
        """What an unfinished job needs."""
        keys, args = self._survey_arguments(job_id)
        return _needs(self._run("survey", keys, *args) or [])

    def surveys(self, job_ids: Sequence[str]) -> Iterator[tuple[str, list[Need] | Exception | None]]:
        """What each of these jobs needs, or why that cannot be read; None: it has ended just now.

        One round trip, so not for too many.
        """
        with self._redis.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                keys, args = self._survey_arguments(job_id)
                self._scripts["survey"](keys=keys, args=args, client=pipe)
            replies = pipe.execute(raise_on_error=False)
        for job_id, reply in zip(job_ids, replies, strict=True):
            if is_newer_reply(reply):
                yield job_id, VersionError(f"job {job_id}")
            elif isinstance(reply, Exception):  # without its traceback, whose frames would keep it alive
                yield job_id, reply.with_traceback(None)
            else:
                yield job_id, None if reply is None else _needs(reply)

    def _survey_arguments(self, job_id: str) -> tuple[list[str], list[Any]]:
        keys = [*job_keys(job_id, "record", "units", "clips"), ACTIVE, ENDED, PULSE]
        keys += job_keys(job_id, "takes", "spec")
        return keys, [job_id, VANISHED_PER_ATTEMPT * self._attempts, self._sticky_wait_ms, self._open_ms]

    def _release(self, job_id: str, unit: WorkUnit, token: str, reason: str, *, allowed: int) -> Released:
        keys = [*job_keys(job_id, "record", "units"), ACTIVE, ENDED, *job_keys(job_id, "takes")]
        outcome, ticket = self._run("release", keys, job_id, unit.name, token, reason, allowed)
        return Released(ReleaseOutcome(outcome.decode()), int(ticket))

    def _send(self, script: str, keys: list[str], *args: Any) -> None:
        self._one_way.send(("EVALSHA", self._scripts[script].sha, len(keys), *keys, *args))


def _claim(
    job_id: str, unit: WorkUnit, token: str, fence: int, epoch: int, clock_skew_s: float, contents: list[Any]
) -> Claim:
    job, before, segment, following, previous, own, *more = contents
    other, request, from_take, own_take, other_take, render_class = more
    return Claim(
        job_id=job_id,
        unit=unit,
        token=token,
        fence=fence,
        epoch=epoch,
        clock_skew_s=clock_skew_s,
        head=read_head(job),
        segment=read_segment(segment) if segment else None,
        before=read_segment(before) if before else None,
        following=read_segment(following) if following else None,
        previous=Handoff.unpack(previous) if previous else None,
        own=Handoff.unpack(own) if own else None,
        other=Handoff.unpack(other) if other else None,
        request=TakeRequest.unpack(request) if request else None,
        from_take=from_take,
        own_take=own_take,
        other_take=other_take,
        render_class=render_class.decode(),
    )


def _queue_keys(unit: WorkUnit) -> list[str]:
    """The keys of the queue of `unit`: its history, and its lists by priority."""
    queue = queue_of(unit)
    return [queue_key(queue), list_key(queue), list_key(queue, Priority.HIGH)]


def _announcement(unit: WorkUnit, reply: list[Any]) -> Announcement | None:
    if not reply:
        return None
    ticket, sticky, title, segments, priority = reply
    return Announcement(unit, ticket, bool(sticky), title.decode(), segments, _priority(priority))


def _needs(reply: list[Any]) -> list[Need]:
    return [
        Need(WorkUnit.parse(name.decode(), index), NeedReason(why.decode()), stamp, ticket, _priority(priority))
        for name, index, why, stamp, ticket, priority in reply
    ]


def _priority(reply: bytes) -> Priority:
    return Priority(reply.decode() or Priority.NORMAL)


def _clip_claim(claim: Claim, handoff: Handoff) -> Claim:
    return replace(claim, unit=WorkUnit.clip(claim.index), own=handoff)
