"""Job records in Redis. Every change is one Lua script; what they promise is written at the head of each."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import msgpack
import redis

from tasks.errors import JobNotFoundError, JobStateError
from tasks.jobs.connection import when_there_is_memory
from tasks.jobs.keys import ACTIVE, ENDED, JOBS, PULSE, RESERVED, WAITING, job_keys, queue_key
from tasks.jobs.queues import OWN
from tasks.jobs.reader import JobReader
from tasks.jobs.records import Announcement, Claim, ClipRecord, FilmRecord, Handoff, Need, Progress, clip_unit
from tasks.jobs.scripts import load_scripts
from tasks.settings import Settings
from tasks.spec.schema import JobSpec

# A message that one worker alone can take waits no longer than this before everybody can.
MOMENT_S = 1.0
OWN_QUEUE_LIFE_S = 30  # less than from one sweep to the next


def new_job_id() -> str:
    """A random job id, 16 characters."""
    return secrets.token_hex(8)


class JobStore(JobReader):
    """The job records of one deployment. A patient one waits when Redis is full."""

    def __init__(self, client: redis.Redis, settings: Settings, *, patient: bool = False) -> None:
        super().__init__(client)
        self.patient = patient
        self._scripts = load_scripts(client)
        self._lease_ms = int(settings.lease_s * 1000)
        self._moment_ms = int(MOMENT_S * 1000)
        self._attempts = settings.max_attempts

    # Making and ending jobs

    def create(
        self, job_id: str, spec: JobSpec, *, model: str, needs_bytes: int = 0, start: Handoff | None = None
    ) -> bool:
        """Write the record of a new job that renders with `model`; False when the id is taken.

        It waits to be admitted: `needs_bytes` of the blob store are what it may take up.
        """
        record = {"title": spec.title, "segments": len(spec.segments), "needs_bytes": needs_bytes}
        head = spec.head.model_copy(update={"model": model})
        fields = {"job": msgpack.packb(head.model_dump())}
        fields |= {str(i): msgpack.packb(segment.model_dump()) for i, segment in enumerate(spec.segments)}
        pairs = [part for item in (record | fields).items() for part in item]
        keys = [*job_keys(job_id, "record", "spec", "handoffs"), JOBS, ACTIVE, WAITING]
        return bool(self._run("create", keys, job_id, start.pack() if start else b"", len(record), *pairs))

    def admit(self, budget_bytes: int | None) -> tuple[str, str, int]:
        """Give room to the job that has waited for it longest.

        Returns what became of it, its id and the bytes it needs: `admitted`; `gone`, when it ended while it waited;
        `never`, when no budget like this has room for it; or `wait`, when nobody waits, or fits beside the others now.
        """
        beginning, ending = job_keys("*", "record")[0].split("*")
        what, job_id, needs = self._run("admit", [WAITING, RESERVED], budget_bytes or 0, beginning, ending)
        return what.decode(), job_id.decode(), int(needs)

    def settle(self, job_id: str, used_bytes: int) -> None:
        """Reserve for an ended job no more than what its blobs really take."""
        self._run("settle", [*job_keys(job_id, "record"), RESERVED], job_id, used_bytes)

    def stop(self, job_id: str, state: str, reason: str) -> str:
        """End an unfinished job as `state`; returns the state it was in.

        Raises:
            JobNotFoundError: no such job.
        """
        return self._change("stop", job_id, [*job_keys(job_id, "record", "units"), ACTIVE, ENDED], state, reason)

    def pause(self, job_id: str) -> str:
        """Hand out no more work of a queued or running job; returns the state it was in.

        Raises:
            JobNotFoundError: no such job.
        """
        return self._change("pause", job_id, job_keys(job_id, "record"))

    def resume(self, job_id: str) -> str:
        """Hand out the work of a paused job again; returns the state it was in.

        Raises:
            JobNotFoundError: no such job.
        """
        return self._change("resume", job_id, job_keys(job_id, "record"))

    def revive(self, job_id: str, state: str) -> str:
        """Take a job that ended as `state` up again where it ended; returns the state it was in.

        Raises:
            JobNotFoundError: no such job.
        """
        keys = [*job_keys(job_id, "record"), ACTIVE, ENDED, WAITING, *job_keys(job_id, "units", "clips")]
        return self._change("revive", job_id, keys, state)

    def delete(self, job_id: str) -> None:
        """Forget a job that has ended.

        Raises:
            JobStateError: it is unfinished.
        """
        keys = [*job_keys(job_id, "record", "spec", "units", "handoffs", "clips"), JOBS, ENDED, WAITING, RESERVED]
        if not self._run("delete", keys, job_id):
            raise JobStateError(f"job {job_id} has not ended; cancel it first")

    # Messages

    def announce(
        self, job_id: str, unit: str, index: int, queue: str, *, seen: int = 0, aside: bool = False
    ) -> Announcement | None:
        """Reserve the ticket of the next message about `unit`, in place of the one with the ticket `seen` (0: none).

        `aside`: the publisher's worker has a queue of its own, and would like to have it there. None when no message is
        due, or when another one was announced since.
        """
        keys = [*job_keys(job_id, "record", "units", "clips"), queue_key(queue), queue]
        reply = self._run("announce", keys, unit, index, seen, int(aside))
        return Announcement(reply[0], bool(reply[1]), reply[2].decode(), reply[3]) if reply else None

    def chained(self, job_id: str, index: int) -> None:
        """Mark that the message of segment `index` was published."""
        self._run("chained", job_keys(job_id, "record"), index)

    def empty_sticky_queues(self) -> None:
        """Have what lies in queues of single workers go soon: those workers are gone, and others were asked instead."""
        for queue in self._redis.scan_iter(match=f"{OWN}*", count=1000):
            self._redis.expire(queue, OWN_QUEUE_LIFE_S)

    # The right to work

    def claim_segment(self, job_id: str, index: int, ticket: int, worker: str, queue: str) -> Claim | str | int:
        """The claim; or why it is refused; or the index to chain, when this one is committed and the next not sent."""
        token = secrets.token_hex(16)
        keys = [*job_keys(job_id, "record", "units", "handoffs"), queue_key(queue)]
        reply = self._run("claim_segment", keys, index, ticket, token, self._lease_ms, worker)
        if reply[0] == b"committed":
            return index + 1 if reply[1] else f"segment {index} is committed"
        return self._claim(job_id, index, token, reply)

    def claim_unit(self, job_id: str, unit: str, index: int, ticket: int, worker: str, queue: str) -> Claim | str:
        """The claim on a clip or the film, or why it is refused."""
        token = secrets.token_hex(16)
        keys = [*job_keys(job_id, "record", "units"), queue_key(queue)]
        reply = self._run("claim_unit", keys, unit, ticket, token, self._lease_ms, worker)
        return self._claim(job_id, index, token, reply)

    def _claim(self, job_id: str, index: int, token: str, reply: list[Any]) -> Claim | str:
        if reply[0] == b"refused":
            return str(reply[1].decode())
        _, fence, epoch, now_ms, unit, handoff = reply
        previous = Handoff.unpack(handoff) if handoff else None
        return Claim(job_id, unit.decode(), index, token, fence, epoch, now_ms / 1000 - time.time(), previous)

    def renew(self, claim: Claim, *, engine: bool | None = None, progress: Progress | None = None) -> bool:
        """Keep the lease; False when it is lost (another holder, or the job has ended)."""
        inside = "" if engine is None else "engine" if engine else "outside"
        said = "" if progress is None else json.dumps([progress.index, progress.step, progress.steps, progress.step_s])
        keys = job_keys(claim.job_id, "record", "units")
        return bool(self._run("renew", keys, claim.unit, claim.token, self._lease_ms, inside, said))

    def give_up(self, claim: Claim, reason: str = "", *, final: bool = False) -> tuple[str, int]:
        """Lay the claim down. No reason: it does not count as an attempt.

        Returns what became of it, and the ticket of its message: `retry`, `failed` (the job has ended) or `refused`.
        """
        keys = [*job_keys(claim.job_id, "record", "units"), ACTIVE, ENDED]
        allowed = 1 if final else self._attempts
        outcome, ticket = self._run("give_up", keys, claim.job_id, claim.unit, claim.token, reason, allowed)
        return str(outcome.decode()), int(ticket)

    def commit_segment(self, claim: Claim, handoff: Handoff) -> Claim | None:
        """Make the handoff real; the claim on its clip, or None when this claim was lost."""
        keys = job_keys(claim.job_id, "record", "units", "handoffs")
        if not self._run("commit_segment", keys, claim.index, claim.token, handoff.pack(), self._lease_ms):
            return None
        return _of_clip(claim)

    def commit_repair(self, claim: Claim, changed: Handoff | None, *, clip_lost: bool) -> Claim | bool:
        """Make a repaired handoff real; None means that its bytes came out as before, so that later commits stand.

        Returns the claim on the clip when it is to be made again, else whether the repair was accepted.
        """
        keys = job_keys(claim.job_id, "record", "units", "handoffs", "clips")
        packed = changed.pack() if changed else b""
        reply = self._run("commit_repair", keys, claim.index, claim.token, packed, self._lease_ms, int(clip_lost))
        return _of_clip(claim) if reply == 2 else bool(reply)

    def commit_clip(self, claim: Claim, clip: ClipRecord) -> tuple[bool, bool]:
        """Make the clip real: whether this call did, and whether every clip is there now."""
        keys = job_keys(claim.job_id, "record", "units", "clips")
        accepted, complete = self._run("commit_clip", keys, claim.index, claim.token, clip.pack())
        return bool(accepted), bool(complete)

    def commit_film(self, claim: Claim, film: FilmRecord) -> bool:
        """Make the film real; the job is done. False when the claim was lost."""
        keys = [*job_keys(claim.job_id, "record", "units"), ACTIVE, ENDED]
        return bool(self._run("commit_film", keys, claim.job_id, claim.token, film.pack()))

    def reopen_clips(self, claim: Claim, indices: Iterable[int]) -> bool:
        """Take back these clips, because their blobs were lost; ends this claim on the film, and the epoch rises."""
        keys = job_keys(claim.job_id, "record", "units", "clips")
        return bool(self._run("reopen_clips", keys, claim.unit, claim.token, *indices))

    def damage(self, claim: Claim, index: int) -> bool:
        """Lay this claim down until segment `index`, whose blobs were lost, is repaired; that raises the epoch."""
        return bool(self._run("damage", job_keys(claim.job_id, "record", "units"), claim.unit, claim.token, index))

    def pulse(self, *, silence_s: float, grace_s: float, budget_bytes: int | None) -> None:
        """Say that this process reaches Redis; after `silence_s` without a word, no lease ends for `grace_s`.

        The budget for blobs is told along, so that clients go by that of the workers.
        """
        self._run("pulse", [PULSE], int(silence_s * 1000), int(grace_s * 1000), budget_bytes or 0)

    def survey(self, job_id: str) -> list[Need]:
        """What an unfinished job needs."""
        keys, args = self._for_survey(job_id)
        return _needs(self._run("survey", keys, *args))

    def surveys(self, job_ids: Sequence[str]) -> Iterator[tuple[str, list[Need] | Exception]]:
        """What each of these jobs needs, or why that cannot be told; asked all at once, so not for too many."""
        with self._redis.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                keys, args = self._for_survey(job_id)
                self._scripts["survey"](keys=keys, args=args, client=pipe)
            replies = pipe.execute(raise_on_error=False)
        for job_id, reply in zip(job_ids, replies, strict=True):
            if isinstance(reply, Exception):  # its traceback holds frames that hold it, and with them every caller's
                yield job_id, reply.with_traceback(None)
            else:
                yield job_id, _needs(reply)

    def _for_survey(self, job_id: str) -> tuple[list[str], list[Any]]:
        keys = [*job_keys(job_id, "record", "units", "clips"), ACTIVE, ENDED, PULSE]
        return keys, [job_id, self._attempts, self._moment_ms]

    def _change(self, script: str, job_id: str, keys: list[str], *args: str) -> str:
        was = cast("bytes", self._run(script, keys, job_id, *args)).decode()
        if not was:
            raise JobNotFoundError(f"there is no job {job_id}; `longtake list` shows the jobs")
        return was

    def _run(self, script: str, keys: list[str], *args: Any) -> Any:
        return when_there_is_memory(lambda: self._scripts[script](keys=keys, args=args), patient=self.patient)


def _needs(reply: list[Any]) -> list[Need]:
    return [Need(unit.decode(), index, why.decode(), stamp, ticket) for unit, index, why, stamp, ticket in reply]


def _of_clip(claim: Claim) -> Claim:
    return replace(claim, unit=clip_unit(claim.index), previous=None)
