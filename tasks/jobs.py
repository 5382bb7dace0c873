"""Job records in Redis. Every change is one Lua script; what they promise is written at the head of each."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Iterator
from typing import Any, cast

import msgpack
import redis

from tasks.config import Settings
from tasks.connection import load_scripts
from tasks.errors import JobNotFoundError, JobStateError, MessageError
from tasks.records import (
    FROM_OUTSIDE,
    SEGMENT_UNIT,
    Claim,
    ClipRecord,
    FilmRecord,
    Handoff,
    JobStatus,
    Progress,
    clip_unit,
)
from tasks.spec import JobHead, JobSpec, SegmentSpec

PREFIX = "longtake:"
JOBS = f"{PREFIX}jobs"
ACTIVE = f"{PREFIX}active"
ENDED = f"{PREFIX}ended"
JOB_ID = re.compile(r"[0-9a-z]{1,40}")


def new_job_id() -> str:
    """A random job id, 16 characters."""
    return secrets.token_hex(8)


def check_job_id(job_id: object) -> str:
    """`job_id` if it is one; it becomes part of Redis keys.

    Raises:
        JobNotFoundError: no job can have this id.
    """
    if not isinstance(job_id, str) or not JOB_ID.fullmatch(job_id):
        raise JobNotFoundError(f"{job_id!r:.60} is not a job id; `longtake list` shows them")
    return job_id


def queue_key(queue: str) -> str:
    """The key of the history of `queue`: messages announced and claimed."""
    return f"{PREFIX}queue:{queue}"


class JobStore:
    """The job records of one deployment."""

    def __init__(self, client: redis.Redis, settings: Settings) -> None:
        self._redis = client
        self._scripts = load_scripts(client)
        self._lease_ms = int(settings.lease_s * 1000)
        self._attempts = settings.max_attempts

    # Making and ending jobs

    def create(self, job_id: str, spec: JobSpec, *, model: str, start: Handoff | None = None) -> bool:
        """Write the record of a new job that renders with `model`; False when the id is taken."""
        record = {"title": spec.title, "segments": len(spec.segments)}
        head = spec.head.model_copy(update={"model": model})
        fields = {"job": msgpack.packb(head.model_dump())}
        fields |= {str(i): msgpack.packb(segment.model_dump()) for i, segment in enumerate(spec.segments)}
        pairs = [part for item in (record | fields).items() for part in item]
        keys = [*self._keys(job_id, "record", "spec", "handoffs"), JOBS, ACTIVE]
        return bool(self._run("create", keys, job_id, start.pack() if start else b"", len(record), *pairs))

    def stop(self, job_id: str, state: str, reason: str) -> str:
        """End an unfinished job as `state`; returns the state it was in.

        Raises:
            JobNotFoundError: no such job.
        """
        was = self._run("stop", [*self._keys(job_id, "record", "units"), ACTIVE, ENDED], job_id, state, reason).decode()
        if not was:
            raise JobNotFoundError(f"there is no job {job_id}; `longtake list` shows the jobs")
        return str(was)

    def revive(self, job_id: str) -> str:
        """Take a failed job up again where it failed; returns the state it was in ('' for no such job)."""
        return str(self._run("revive", [*self._keys(job_id, "record"), ACTIVE, ENDED], job_id).decode())

    def delete(self, job_id: str) -> None:
        """Forget a job that has ended.

        Raises:
            JobStateError: it is still queued or running.
        """
        keys = [*self._keys(job_id, "record", "spec", "units", "handoffs", "clips"), JOBS, ENDED]
        if not self._run("delete", keys, job_id):
            raise JobStateError(f"job {job_id} is still running; cancel it first")

    # Messages

    def announce(self, job_id: str, unit: str, index: int, queue: str) -> int:
        """Reserve the ticket of the next message about `unit`; 0 when none is due."""
        keys = [*self._keys(job_id, "record", "units"), queue_key(queue)]
        return int(self._run("announce", keys, unit, index))

    def chained(self, job_id: str, index: int) -> None:
        """Mark that the message of segment `index` was published."""
        self._run("chained", self._keys(job_id, "record"), index)

    # The right to work

    def claim_segment(self, job_id: str, index: int, ticket: int, worker: str, queue: str) -> Claim | str | int:
        """The claim; or why it is refused; or the index to chain, when this one is committed and the next not sent."""
        token = secrets.token_hex(16)
        keys = [*self._keys(job_id, "record", "units", "handoffs"), queue_key(queue)]
        reply = self._run("claim_segment", keys, index, ticket, token, self._lease_ms, worker)
        if reply[0] == b"committed":
            return index + 1 if reply[1] else f"segment {index} is committed"
        return self._claim(job_id, SEGMENT_UNIT, index, token, reply)

    def claim_unit(self, job_id: str, unit: str, index: int, ticket: int, worker: str, queue: str) -> Claim | str:
        """The claim on a clip or the film, or why it is refused."""
        token = secrets.token_hex(16)
        keys = [*self._keys(job_id, "record", "units"), queue_key(queue)]
        reply = self._run("claim_unit", keys, unit, ticket, token, self._lease_ms, worker)
        return self._claim(job_id, unit, index, token, reply)

    def _claim(self, job_id: str, unit: str, index: int, token: str, reply: list[Any]) -> Claim | str:
        if reply[0] == b"refused":
            return str(reply[1].decode())
        _, fence, epoch, now_ms, handoff = reply
        previous = Handoff.unpack(handoff) if handoff else None
        return Claim(job_id, unit, index, token, fence, epoch, now_ms / 1000 - time.time(), previous)

    def renew(self, claim: Claim, *, engine: bool | None = None, progress: Progress | None = None) -> bool:
        """Keep the lease; False when it is lost (another holder, or the job has ended)."""
        inside = "" if engine is None else "engine" if engine else "outside"
        said = "" if progress is None else json.dumps([progress.index, progress.step, progress.steps, progress.step_s])
        keys = self._keys(claim.job_id, "record", "units")
        return bool(self._run("renew", keys, claim.unit, claim.token, self._lease_ms, inside, said))

    def give_up(self, claim: Claim, reason: str = "", *, final: bool = False) -> str:
        """Lay the claim down: `retry`, `failed` (the job has ended) or `refused`. No reason: it does not count."""
        keys = [*self._keys(claim.job_id, "record", "units"), ACTIVE, ENDED]
        allowed = 1 if final else self._attempts
        reply = self._run("give_up", keys, claim.job_id, claim.unit, claim.token, reason, allowed)
        return str(reply[0].decode())

    def commit_segment(self, claim: Claim, handoff: Handoff) -> Claim | None:
        """Make the handoff real; the claim on its clip, or None when this claim was lost."""
        keys = self._keys(claim.job_id, "record", "units", "handoffs")
        if not self._run("commit_segment", keys, claim.index, claim.token, handoff.pack(), self._lease_ms):
            return None
        return Claim(
            claim.job_id,
            clip_unit(claim.index),
            claim.index,
            claim.token,
            claim.fence,
            claim.epoch,
            claim.clock_skew_s,
        )

    def commit_clip(self, claim: Claim, clip: ClipRecord) -> tuple[bool, bool]:
        """Make the clip real: whether it was accepted, and whether every clip is there now."""
        keys = self._keys(claim.job_id, "record", "units", "clips")
        accepted, complete = self._run("commit_clip", keys, claim.index, claim.token, clip.pack())
        return bool(accepted), bool(complete)

    def commit_film(self, claim: Claim, film: FilmRecord) -> bool:
        """Make the film real; the job is done. False when the claim was lost."""
        keys = [*self._keys(claim.job_id, "record", "units"), ACTIVE, ENDED]
        return bool(self._run("commit_film", keys, claim.job_id, claim.token, film.pack()))

    def reopen_clip(self, claim: Claim, index: int) -> bool:
        """Take back the clip of segment `index`, because its blob was lost; lays down this claim on the film."""
        keys = self._keys(claim.job_id, "units", "clips")
        return bool(self._run("reopen_clip", keys, claim.unit, claim.token, index))

    def rewind(self, claim: Claim, index: int) -> bool:
        """Take back every commit from `index` on, because blobs were lost; the epoch rises."""
        keys = self._keys(claim.job_id, "record", "units", "handoffs", "clips")
        return bool(self._run("rewind", keys, claim.unit, claim.token, index))

    def survey(self, job_id: str) -> list[tuple[str, int, str, int, int]]:
        """What an unfinished job needs: unit, index, why, stamp and ticket of each piece."""
        keys = [*self._keys(job_id, "record", "units", "clips"), ACTIVE, ENDED]
        reply = self._run("survey", keys, job_id, self._attempts)
        return [(unit.decode(), index, why.decode(), stamp, ticket) for unit, index, why, stamp, ticket in reply]

    # Reading

    def active(self) -> list[str]:
        """The ids of unfinished jobs, oldest first."""
        return [job_id.decode() for job_id in cast(list[bytes], self._redis.zrange(ACTIVE, 0, -1))]

    def statuses(self) -> Iterator[JobStatus]:
        """Every job, oldest first."""
        for job_id in cast("list[bytes]", self._redis.zrange(JOBS, 0, -1)):
            try:
                yield self.status(job_id.decode())
            except JobNotFoundError:
                continue  # deleted since the list was read

    def ended_for(self, seconds: float) -> list[str]:
        """The ids of jobs that ended at least so long ago, by Redis' clock."""
        now_s, now_us = self._redis.time()
        found = self._redis.zrangebyscore(ENDED, "-inf", now_s * 1000 + now_us / 1000 - seconds * 1000)
        return [job_id.decode() for job_id in cast("list[bytes]", found)]

    def exists(self, job_id: str) -> bool:
        """Whether there is such a job."""
        return bool(self._redis.exists(*self._keys(job_id, "record")))

    def status(self, job_id: str) -> JobStatus:
        """One job as people see it.

        Raises:
            JobNotFoundError: no such job.
        """
        record_key, clips_key = self._keys(check_job_id(job_id), "record", "clips")
        pipeline = self._redis.pipeline()
        pipeline.hgetall(record_key)
        pipeline.hlen(clips_key)
        raw, clips = pipeline.execute()
        if not raw:
            raise JobNotFoundError(f"there is no job {job_id}; `longtake list` shows the jobs")
        record = {key.decode(): value for key, value in raw.items()}

        def seconds(name: str) -> float | None:
            return int(record[name]) / 1000 if name in record else None

        def number(name: str) -> int | None:
            return int(record[name]) if name in record else None

        return JobStatus(
            job_id=job_id,
            title=record["title"].decode(),
            state=record["state"].decode(),
            segments=int(record["segments"]),
            committed=int(record["cursor"]),
            clips=clips,
            epoch=int(record["epoch"]),
            created_at=int(record["created_at"]) / 1000,
            started_at=seconds("started_at"),
            finished_at=seconds("finished_at"),
            reason=record.get("reason", b"").decode() or None,
            failed_segment=number("failed_segment"),
            attempts=number("attempts"),
            progress=Progress(*json.loads(record["progress"])) if "progress" in record else None,
            film=FilmRecord.unpack(record["film"]) if "film" in record else None,
        )

    def head(self, job_id: str) -> JobHead:
        """What all segments of the job share.

        Raises:
            MessageError: there is no such job.
        """
        return JobHead.model_validate(msgpack.unpackb(self._spec_field(job_id, "job")))

    def segment_spec(self, job_id: str, index: int) -> SegmentSpec:
        """The spec of segment `index`.

        Raises:
            MessageError: there is no such job or segment.
        """
        return SegmentSpec.model_validate(msgpack.unpackb(self._spec_field(job_id, str(index))))

    def _spec_field(self, job_id: str, name: str) -> bytes:
        data = cast("bytes | None", self._redis.hget(self._keys(job_id, "spec")[0], name))
        if data is None:
            raise MessageError(f"job {job_id} has no spec of {name}")
        return data

    def handoff(self, job_id: str, index: int) -> Handoff | None:
        """The committed handoff of segment `index` (-1: the state the job started from), or None."""
        data = cast("bytes | None", self._redis.hget(self._keys(job_id, "handoffs")[0], str(index)))
        return None if data is None else Handoff.unpack(data)

    def handoffs(self, job_id: str) -> list[Handoff]:
        """Every committed handoff in order, without the one from outside."""
        raw = cast("dict[bytes, bytes]", self._redis.hgetall(self._keys(job_id, "handoffs")[0]))
        found = [Handoff.unpack(data) for data in raw.values()]
        return sorted((h for h in found if h.index != FROM_OUTSIDE), key=lambda h: h.index)

    def clips(self, job_id: str) -> dict[int, ClipRecord]:
        """Every committed clip by segment index."""
        raw = cast("dict[bytes, bytes]", self._redis.hgetall(self._keys(job_id, "clips")[0]))
        return {int(index): ClipRecord.unpack(data) for index, data in sorted(raw.items(), key=lambda i: int(i[0]))}

    def prompts(self, job_id: str) -> dict[int, str]:
        """Every segment's prompt by index."""
        raw = cast("dict[bytes, bytes]", self._redis.hgetall(self._keys(job_id, "spec")[0]))
        return {int(name): msgpack.unpackb(data)["prompt"] for name, data in raw.items() if name != b"job"}

    def queue_claimed(self, queue: str) -> int:
        """The highest stamp among the messages of `queue` that were claimed."""
        return int(cast("bytes | None", self._redis.hget(queue_key(queue), "claimed")) or 0)

    def _keys(self, job_id: str, *names: str) -> list[str]:
        return [f"{PREFIX}job:{job_id}:{name}" for name in names]

    def _run(self, script: str, keys: list[str], *args: Any) -> Any:
        return self._scripts[script](keys=keys, args=args)
