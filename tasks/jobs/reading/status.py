"""Reads the status of a job from the replies of Redis."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from redis.client import Pipeline

from blobstore.stored_format import MAJOR_OF_JOBS, is_newer_major
from tasks.errors import JobNotFoundError, RecordError, VersionError
from tasks.jobs.keys import job_keys
from tasks.jobs.queues import Priority
from tasks.jobs.records import DAMAGE, FailedAttempt, FilmRecord, ForkOrigin, JobStatus, Progress
from tasks.jobs.units import ALL_APPROVED, JobState, UnitKind, WorkUnit, shown_state

FOREVER = b"forever"
LATEST_MS = 253_402_300_799_000
"""The end of the year 9999."""
RENDERED = (UnitKind.SEGMENT, UnitKind.REPAIR)
PROGRESS = re.compile(r"progress(:\d+)?")


def queue_status(pipe: Pipeline, job_id: str) -> None:
    """Ask for what `read_status` reads."""
    record, clips, units = job_keys(job_id, "record", "clips", "units")
    pipe.hgetall(record)
    pipe.hlen(clips)
    pipe.hgetall(units)


def read_status(job_id: str, raw: Any, clips: Any, units: Any) -> JobStatus:
    """The status in the replies to `queue_status`. Raises what `JobReader.status` raises."""
    for reply in (raw, clips, units):
        if isinstance(reply, Exception):  # a key of another type
            raise damaged(job_id, reply)
    if not raw:
        raise no_such_job(job_id)
    try:
        if is_newer_major(raw[b"format"].decode() if b"format" in raw else None, readable=MAJOR_OF_JOBS):
            raise VersionError(f"job {job_id}")
        return _status(job_id, {key.decode(): value for key, value in raw.items()}, clips, units)
    except DAMAGE as error:
        raise damaged(job_id, error) from None


def _status(job_id: str, record: dict[str, bytes], clips: int, units: dict[bytes, bytes]) -> JobStatus:
    def seconds(name: str) -> float | None:
        return time_of(record[name]) if name in record else None

    def number(name: str) -> int | None:
        return int(record[name]) if name in record else None

    read = list(_readable(units))
    committed, segments, is_open = int(record["cursor"]), int(record["segments"]), "open" in record
    in_work = sorted(Progress.unpack(record[name]) for name in record if PROGRESS.fullmatch(name))
    approved = None if number("approved") == ALL_APPROVED else number("approved")
    return JobStatus(
        job_id=job_id,
        title=record["title"].decode(),
        state=shown_state(
            JobState(record["state"].decode()),
            committed=committed,
            segments=segments,
            is_open=is_open,
            approved=approved,
        ),
        segments=segments,
        committed=committed,
        clips=clips,
        epoch=int(record["epoch"]),
        created_at=time_of(record["created_at"]),
        started_at=seconds("started_at"),
        finished_at=seconds("finished_at"),
        reason=record.get("reason", b"").decode() or None,
        failed_segment=number("failed_segment"),
        attempts=number("attempts"),
        progress=in_work[0] if in_work else None,
        film=FilmRecord.unpack(record["film"]) if "film" in record else None,
        needs_bytes=int(record["needs_bytes"]),
        priority=Priority(record.get("priority", b"").decode() or Priority.NORMAL),
        admitted="admitted" in record,
        failures=tuple(
            FailedAttempt(str(entry["worker"]), str(entry["reason"]), entry["at"] / 1000)
            for entry in json.loads(record.get("failures", b"[]"))
        ),
        takes_due=sum(_is_next_of_take(unit, entry) for unit, entry in read),
        take_progress=tuple(_take_progress(read)),
        kept="kept_until" in record,
        kept_until=_kept_until(record.get("kept_until")),
        open=is_open,
        approved=approved,
        grown=number("grown") or 0,
        ahead=sum(cursor - first for first, cursor in json.loads(record.get("ahead", b"[]"))),
        others=tuple(in_work[1:]),
        claimed=tuple(sorted(unit.index for unit, entry in read if unit.kind in RENDERED and entry["token"])),
        fork_of=ForkOrigin(record["fork_of"].decode(), int(record["fork_after"])) if "fork_of" in record else None,
    )


def _readable(units: dict[bytes, bytes]) -> Iterator[tuple[WorkUnit, dict[str, Any]]]:
    """The units and their entries, in order. A worker fails a job with a damaged one, and says why."""
    for name, raw in sorted(units.items()):
        try:
            entry = json.loads(raw)
            found = WorkUnit.parse(name.decode(), int(entry["index"])), {"token": "", "after": "", **entry}
        except DAMAGE:
            continue
        yield found


def _is_next_of_take(unit: WorkUnit, entry: dict[str, Any]) -> bool:
    """Whether a unit is the next segment of a take that is to be rendered."""
    return unit.kind == UnitKind.TAKE and entry["after"] != WorkUnit.of_take(unit.index - 1, unit.take).name


def _take_progress(units: Iterable[tuple[WorkUnit, dict[str, Any]]]) -> Iterator[Progress]:
    """How far the takes are that workers render, in order."""
    for unit, entry in units:
        if unit.kind == UnitKind.TAKE and "progress" in entry:
            yield replace(Progress.unpack(entry["progress"]), take=unit.take)


def damaged(job_id: str, error: Exception) -> RecordError:
    """The error about a record that cannot be read."""
    return RecordError(f"the record of job {job_id} is damaged: {type(error).__name__}: {error}")


def no_such_job(job_id: str) -> JobNotFoundError:
    """The error about an id without a record."""
    return JobNotFoundError(f"there is no job {job_id}; `longtake list` shows the jobs")


def time_of(stored: bytes) -> float:
    """The seconds since the epoch in stored milliseconds. ValueError: no time that a calendar has."""
    milliseconds = int(stored)
    if not 0 <= milliseconds <= LATEST_MS:
        raise ValueError(f"{milliseconds:.3g} is not a time")
    return milliseconds / 1000


def is_kept(stored: object, now_ms: float) -> bool:
    """Whether the field `kept_until` of a record says so; not if it is damaged, which `delete` reports."""
    return stored == FOREVER or (isinstance(stored, bytes) and stored.isdigit() and int(stored) > now_ms)


def _kept_until(stored: bytes | None) -> float | None:
    """Until when a job is kept, in seconds since the epoch; None: no end is known."""
    return None if stored is None or stored == FOREVER else time_of(stored)
