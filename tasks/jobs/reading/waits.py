"""What a job that makes no progress waits for, as queues and heartbeats say."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, cast

import redis

from tasks.field_errors import counted
from tasks.jobs.keys import job_keys
from tasks.jobs.queues import SEGMENTS, Priority, queue_of
from tasks.jobs.reading import queue_states
from tasks.jobs.records import DAMAGE
from tasks.jobs.units import JobState, WorkUnit
from tasks.jobs.workers import SilentWorker, WorkerList


class WaitReason(StrEnum):
    """Why a job waits."""

    QUEUE = "queue"
    LOADING = "loading"
    SILENT = "silent"
    BLOBS = "blob server"
    NO_WORKER = "no worker"


@dataclass(frozen=True, slots=True)
class Wait:
    """What a job waits for. queue: that of its message. worker: one that loads its model, is silent, or does
    not reach the blob server.

    silent_s: seconds since the last word of that worker. jobs_ahead: messages that are taken before this job's.
    """

    reason: WaitReason
    queue: str = SEGMENTS
    worker: str | None = None
    silent_s: float | None = None
    jobs_ahead: int | None = None

    def __str__(self) -> str:
        if self.reason == WaitReason.QUEUE:
            ahead = self.jobs_ahead or 0
            return f"waiting in queue, {counted(ahead, 'job')} ahead" if ahead else "next in queue"
        if self.reason == WaitReason.LOADING:
            return f"worker {self.worker} is loading the model"
        if self.reason == WaitReason.BLOBS:
            return f"worker {self.worker} cannot reach the blob server"
        silence = f"no word from {self.worker} for {self.silent_s:.0f} s" if self.silent_s is not None else ""
        if self.reason == WaitReason.SILENT:
            return silence
        nobody = "no worker is online" + (f" for {self.queue}" if self.queue != SEGMENTS else "")
        return f"{nobody}; {silence}" if silence else nobody


class Waiter(Protocol):
    """A job that may wait, such as a JobStatus."""

    @property
    def job_id(self) -> str: ...

    @property
    def state(self) -> JobState: ...

    @property
    def admitted(self) -> bool: ...


def read_waits(client: redis.Redis, statuses: Sequence[Waiter], workers: WorkerList) -> dict[str, Wait]:
    """What these jobs wait for, by job id; without those that are at work, or wait for something else than a worker."""
    waiting = [status for status in statuses if status.admitted and status.state in (JobState.QUEUED, JobState.RUNNING)]
    if not waiting:
        return {}
    with client.pipeline(transaction=False) as pipe:
        queue_states.ask(pipe)
        for status in waiting:
            pipe.hgetall(job_keys(status.job_id, "units")[0])
        replies = pipe.execute(raise_on_error=False)
    try:
        queues = queue_states.states_in(replies)
    except DAMAGE:  # a key of another type
        return {}
    found = {}
    for status, units in zip(waiting, replies[queue_states.REPLIES :], strict=True):
        try:
            wait = _wait(cast("Any", units), queues, workers)
        except DAMAGE:  # other commands say so
            continue
        if wait is not None:
            found[status.job_id] = wait
    return found


def _wait(reply: Mapping[bytes, bytes], queues: queue_states.QueueStates, workers: WorkerList) -> Wait | None:
    units = {name.decode(): json.loads(data) for name, data in reply.items()}
    living = {worker.token: worker for worker in workers.living}
    silent = {one.worker.token: one for one in workers.silent}
    free = [(name, unit) for name, unit in units.items() if unit.get("after", "") not in units]
    holders = [living[unit["node"]] for _, unit in free if unit["token"] and unit["node"] in living]
    if holders:
        cut_off = next((worker.name for worker in holders if worker.blob_outage_s), None)
        return Wait(WaitReason.BLOBS, worker=cut_off) if cut_off else None
    lost = next((silent[unit["node"]] for _, unit in free if unit["token"] and unit["node"] in silent), None)
    wanted = [(queue_of(WorkUnit.parse(name, unit["index"])), unit) for name, unit in free]
    queue, unit = wanted[0] if wanted else (SEGMENTS, None)
    takers = [worker for worker in workers.living if worker.takes(queue)]
    if not takers:
        return _silence(WaitReason.NO_WORKER, queue, lost)
    if lost is not None:
        return _silence(WaitReason.SILENT, queue, lost)
    if all(worker.blob_outage_s for worker in takers):
        return Wait(WaitReason.BLOBS, queue, worker=takers[0].name)
    if not any(worker.is_ready for worker in takers):
        return Wait(WaitReason.LOADING, queue, worker=takers[0].name)
    if unit is None or unit["token"] or unit["sticky"] or not unit["announced"]:
        return None
    priority = Priority(unit.get("priority", Priority.NORMAL))
    own = queues[queue, priority]
    before = queues[queue, Priority.HIGH].length if priority != Priority.HIGH else 0
    return Wait(WaitReason.QUEUE, queue, jobs_ahead=before + max(0, min(unit["stamp"] - own.claimed, own.length) - 1))


def _silence(reason: WaitReason, queue: str, lost: SilentWorker | None) -> Wait:
    return Wait(reason, queue, lost.worker.name if lost else None, lost.seconds if lost else None)
