"""What is wrong with the job records: unreadable, stuck, or failed. Changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import redis

from blobstore.stored_format import MAJOR_OF_JOBS, is_newer_major
from tasks.errors import JobNotFoundError, LongtakeError, RecordError, VersionError
from tasks.field_errors import counted
from tasks.jobs.keys import JOBS, job_keys
from tasks.jobs.queues import QUEUES, Priority, list_key, queue_of
from tasks.jobs.reader import JobReader
from tasks.jobs.reading.queue_states import QueueStates
from tasks.jobs.reading.waits import WaitReason, read_waits
from tasks.jobs.records import DAMAGE, FilmRecord, Progress
from tasks.jobs.units import JobState, WorkUnit, shown_state
from tasks.jobs.workers import WorkerList
from tasks.maintenance.findings import Finding, error, first_few, warning
from tasks.maintenance.take_findings import failed_takes

ABOUT = "jobs"
PAGE = 500
STUCK_S = 30.0
"""The reconciler publishes a lost message again sooner."""
RECENTLY_S = 86400.0
NUMBERS = ("segments", "cursor", "epoch", "created_at", "needs_bytes")
FIELDS = (
    "format",
    "state",
    *NUMBERS,
    "finished_at",
    "film",
    "admitted",
    "reason",
    "progress",
    "failures",
    "open",
    "approved",
    "ahead",
)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Record:
    """The fields of a record that show what may be wrong; None where it has none."""

    job_id: str
    fields: dict[str, bytes | None]

    @property
    def is_whole(self) -> bool:
        """Whether it looks readable; `JobReader.status` says what is wrong with one that does not."""
        try:
            version = self.fields["format"]
            if is_newer_major(version.decode() if version else None, readable=MAJOR_OF_JOBS):
                return False
            JobState((self.fields["state"] or b"").decode())
            for name in NUMBERS:
                int(self.fields[name] or b"")
            if self.fields["film"]:
                FilmRecord.unpack(self.fields["film"])
            int(self.fields["approved"] or 0)
            [int(first) + int(cursor) for first, cursor in json.loads(self.fields["ahead"] or b"[]")]
            Progress.unpack(self.fields["progress"] or b"[0, 0, 0, 0]")
            [entry["at"] / 1000 for entry in json.loads(self.fields["failures"] or b"[]")]
        except (*DAMAGE, LongtakeError):
            return False
        return True

    def milliseconds(self, name: str) -> int:
        return int(self.fields[name] or 0)

    @property
    def admitted(self) -> bool:
        return self.fields["admitted"] is not None

    @property
    def state(self) -> JobState:
        return shown_state(
            JobState((self.fields["state"] or b"").decode()),
            committed=int(self.fields["cursor"] or 0),
            segments=int(self.fields["segments"] or 0),
            is_open=self.fields["open"] is not None,
            approved=None if self.fields["approved"] is None else int(self.fields["approved"]),
        )

    @property
    def waits_for_user(self) -> bool:
        return self.state in (JobState.OPEN, JobState.AWAITING_APPROVAL)


def examine_records(client: redis.Redis, reader: JobReader, workers: WorkerList) -> Iterator[Finding]:
    """What is wrong with the job records on the broker of `client`, for these workers."""
    now_ms = int(reader.now() * 1000)
    odd: list[Finding] = []
    running: list[_Record] = []
    failed: list[_Record] = []
    ended: list[_Record] = []
    for record in _records(client):
        if not record.is_whole:
            odd += _unreadable(reader, record.job_id)
        elif record.state in (JobState.QUEUED, JobState.RUNNING) or record.waits_for_user:
            running.append(record)
        elif now_ms - record.milliseconds("finished_at") < RECENTLY_S * 1000:
            (failed if record.state == JobState.FAILED else ended).append(record)
    yield from first_few(odd, ABOUT, "records cannot be read")
    yield from first_few(list(_stuck(client, reader, running, now_ms)), ABOUT, "jobs are stuck")
    yield from first_few(_incomplete(reader, running, now_ms), ABOUT, "submissions are not complete")
    yield from _unserved(client, running, workers)
    yield from first_few([_failure(record) for record in failed], ABOUT, "jobs failed in the last day")
    with_takes = [record.job_id for record in (*running, *ended)]
    lost = [finding for page in _pages(with_takes) for finding in failed_takes(client, page, ABOUT)]
    yield from first_few(lost, ABOUT, "takes failed")


def _records(client: redis.Redis) -> Iterator[_Record]:
    ids = [job_id.decode(errors="replace") for job_id in cast("list[bytes]", client.zrange(JOBS, 0, -1))]
    for page in _pages(ids):
        with client.pipeline(transaction=False) as pipe:
            for job_id in page:
                pipe.hmget(job_keys(job_id, "record")[0], FIELDS)
            replies = pipe.execute(raise_on_error=False)
        for job_id, reply in zip(page, replies, strict=True):
            values = reply if isinstance(reply, list) else [None] * len(FIELDS)  # a key of another type
            yield _Record(job_id, dict(zip(FIELDS, values, strict=True)))


def _pages(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[first : first + PAGE] for first in range(0, len(items), PAGE))


def _unreadable(reader: JobReader, job_id: str) -> list[Finding]:
    try:
        reader.status(job_id)
    except JobNotFoundError:
        pass  # deleted since the list was read
    except VersionError as newer:
        return [warning(ABOUT, str(newer), "or let the newer workers finish it")]
    except RecordError as damaged:
        return [error(ABOUT, str(damaged), f"submit it again, and delete `{job_keys(job_id, 'record')[0]}`")]
    except redis.ResponseError:
        return [error(ABOUT, f"the record of job {job_id} is damaged: it is no hash", "submit it again, and delete it")]
    return []


def _failure(record: _Record) -> Finding:
    reason = (record.fields["reason"] or b"").decode(errors="replace")
    problem = f"job {record.job_id} has failed: {reason}"
    return warning(ABOUT, problem, f"see `longtake status {record.job_id}`; `longtake retry` tries again")


def _incomplete(reader: JobReader, records: list[_Record], now_ms: int) -> list[Finding]:
    """Jobs whose client died before it had pinned what they start from, though a worker had time to do it."""
    submitting = set(reader.submitting())
    late = [record.job_id for record in records if record.job_id in submitting and _is_old(record, now_ms)]
    advice = "a living worker completes it within seconds: start one, or check the blob server"
    return [error(ABOUT, f"the submission of job {job_id} is not complete", advice) for job_id in late]


def _is_old(record: _Record, now_ms: int) -> bool:
    return now_ms - record.milliseconds("created_at") > STUCK_S * 1000


def _unserved(client: redis.Redis, records: list[_Record], workers: WorkerList) -> Iterator[Finding]:
    """Jobs that wait for a kind of work that no worker takes; waiting messages are found with their queue."""
    if not workers.living:
        return
    waits = [wait for page in _pages(records) for wait in read_waits(client, page, workers).items()]
    for queue in QUEUES:
        ids = [job_id for job_id, wait in waits if (wait.reason, wait.queue) == (WaitReason.NO_WORKER, queue)]
        if ids and not any(client.llen(list_key(queue, priority)) for priority in Priority):
            problem = f"no living worker takes {queue}, needed by {counted(len(ids), 'job')}, such as {ids[0]}"
            yield error(ABOUT, problem, "start `longtake worker`")


def _stuck(client: redis.Redis, reader: JobReader, records: list[_Record], now_ms: int) -> Iterator[Finding]:
    """Jobs whose work nobody does and no message asks for, though the reconciler had time to publish one."""
    queues = reader.queue_states()
    has_budget = bool(reader.budget_bytes())
    old = [record for record in records if _is_old(record, now_ms)]
    for page in _pages(old):
        with client.pipeline(transaction=False) as pipe:
            for record in page:
                pipe.hgetall(job_keys(record.job_id, "units")[0])
            replies = pipe.execute(raise_on_error=False)
        for record, reply in zip(page, replies, strict=True):
            if record.fields["admitted"] is None:
                if not has_budget:
                    problem = f"job {record.job_id} was not admitted, though no budget limits blobs"
                    yield error(ABOUT, problem, "a living worker admits it within seconds: start one")
                continue
            try:
                waiting = _waiting_unit(reply, queues, now_ms, has_next=not record.waits_for_user)
            except DAMAGE:
                yield error(ABOUT, f"the units of job {record.job_id} are damaged", "cancel it and submit it again")
                continue
            if waiting is not None:
                problem = f"job {record.job_id} waits for its {waiting}, and no message asks for it"
                yield error(ABOUT, problem, "a living worker publishes it within seconds: start one, or read its log")


def _waiting_unit(reply: Any, queues: QueueStates, now_ms: int, *, has_next: bool) -> str | None:
    """What a running job waits for in vain, None while its work is done or queued.

    reply: its units hash. has_next: without a unit, the next one is due.
    """
    units = {name.decode(): json.loads(data) for name, data in reply.items()}
    for name, unit in units.items():
        left = unit["expires"] - now_ms if unit["token"] else 0
        if unit["after"] in units or 0 < left <= unit.get("lease", left):
            continue  # it waits for another unit, or a worker has it
        since = unit["expires"] if unit["token"] else unit["announced"]
        if now_ms - since <= STUCK_S * 1000:
            continue
        work = WorkUnit.parse(name, unit["index"])
        queue = queues[queue_of(work), Priority(unit.get("priority", Priority.NORMAL))]
        is_queued = not unit["token"] and unit["announced"] and not unit["sticky"]
        if not is_queued or queue.has_lost(unit["stamp"]):
            return str(work)
    return "next unit" if has_next and not units else None
