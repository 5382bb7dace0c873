"""Heartbeats: what each worker of a deployment is and does, in Redis; an entry without a new heartbeat expires."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, cast

import redis
from pydantic import TypeAdapter

from blobstore.stored_format import FORMAT, is_newer_major
from tasks.errors import RecordError, VersionError
from tasks.jobs.keys import WORKERS, worker_key

INDEX_LIFE_S = 3600
SILENT_KEPT_S = 300.0
"""How long the entry of a worker is kept that gives no word, so that people can be told."""
TEXT_LIMIT = 200
CHILDREN_LIMIT = 16
ENTRY_LIMIT_BYTES = 16 * 1024
MADE_UP_NAME = re.compile(r"longtake-[0-9a-f]{6}@")


class ChildState(StrEnum):
    """What a worker's child does."""

    LOADING = "loading"
    IDLE = "idle"
    WORKING = "working"


@dataclass(frozen=True, slots=True)
class Gpu:
    """A child's GPU. memory_bytes: all of it, not what is free. uuid: of the device; empty where it is not known.

    others: the uuids of the GPUs that render together with it.
    """

    name: str
    memory_bytes: int
    uuid: str = ""
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ChildInfo:
    """A child of a worker. since: when it began what it does, in seconds since the epoch. gpu: None on a CPU.

    ranks: how many processes render a segment together, each on a GPU of its own: this one and its followers.
    """

    pid: int
    state: ChildState
    since: float
    job_id: str | None = None
    unit: str | None = None
    gpu: Gpu | None = None
    ranks: int = 1

    @property
    def device(self) -> str:
        """What it renders on, for people."""
        name = self.gpu.name if self.gpu else "CPU"
        return name if self.ranks == 1 else f"{self.ranks} x {name}"


@dataclass(frozen=True, slots=True)
class Versions:
    """Versions of what decides the bytes that a worker makes."""

    longtake: str = ""
    python: str = ""
    celery: str = ""
    torch: str = ""
    diffusers: str = ""


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker as its last heartbeat said. Times are in seconds since the epoch, by Redis' clock.

    name: its Celery node name. token: of its main process, never used twice. clock_offset_s: its clock minus Redis'.
    fault: why its host cannot render; such a worker has ended. life_s: it is silent after so long without a new
    heartbeat. blob_outage_s: for how long it cannot use the blob server; 0 while it can. render_class: what else than
    the job the bytes depend on that it renders; '' until it has loaded a model.
    """

    token: str
    name: str
    host: str
    pid: int
    started_at: float
    seen_at: float
    clock_offset_s: float
    model: str
    engine: str
    queues: tuple[str, ...] = ()
    versions: Versions = Versions()
    children: tuple[ChildInfo, ...] = ()
    stopping: bool = False
    fault: str | None = None
    life_s: float | None = None
    blob_outage_s: float = 0.0
    render_class: str = ""

    @property
    def working(self) -> ChildInfo | None:
        """The child that works on a job, if any does."""
        return next((child for child in self.children if child.state == ChildState.WORKING), None)

    @property
    def is_ready(self) -> bool:
        """Whether one of its children has loaded the model.

        Until then none can work, but its main process may have taken a message for the first that can.
        """
        return any(child.state != ChildState.LOADING for child in self.children)

    @property
    def is_idle(self) -> bool:
        """Whether one of its children waits for work."""
        return any(child.state == ChildState.IDLE for child in self.children)

    @property
    def gpu_uuids(self) -> frozenset[str]:
        """The GPUs of its children, as far as they are known."""
        found = (uuid for child in self.children if child.gpu for uuid in (child.gpu.uuid, *child.gpu.others))
        return frozenset(filter(None, found))

    def has_replaced(self, ended: WorkerInfo) -> bool:
        """Whether it does the work of a worker that has ended: it started on the same host and GPUs since.

        It has the same name, if that was given by a user.
        """
        is_later = self.host == ended.host and self.started_at >= ended.seen_at and self.is_ready
        is_named = MADE_UP_NAME.match(ended.name) is None
        return is_later and ended.gpu_uuids <= self.gpu_uuids and (self.name == ended.name or not is_named)

    def takes(self, queue: str) -> bool:
        """Whether it takes messages of this queue."""
        return queue in self.queues and not self.stopping

    def pack(self) -> bytes:
        """This entry as JSON, with the format version; long texts are cut."""
        few = replace(self, children=self.children[:CHILDREN_LIMIT])
        return json.dumps({"format": FORMAT} | _clean(asdict(few))).encode()

    @classmethod
    def unpack(cls, data: bytes) -> WorkerInfo:
        """The entry in `data`; keys that this version does not know are ignored.

        Raises:
            VersionError: a newer major version wrote it. RecordError: it is damaged.
        """
        try:
            if len(data) > ENTRY_LIMIT_BYTES:
                raise ValueError("too large")
            value = json.loads(data)
            newer = is_newer_major(value.get("format"))
            info = None if newer else _WORKER.validate_python(_clean(value))
        except (AttributeError, RecursionError, ValueError) as error:
            raise RecordError(f"a worker's entry is damaged: {type(error).__name__}") from None
        if info is None:
            raise VersionError("a worker's entry")
        return info


_WORKER = TypeAdapter(WorkerInfo)


@dataclass(frozen=True, slots=True)
class SilentWorker:
    """A worker that has given no word for some seconds, and did not end: it is gone, frozen or cut off."""

    worker: WorkerInfo
    seconds: float


@dataclass(frozen=True, slots=True)
class WorkerList:
    """The entries of all workers, by name. unreadable: why others cannot be read. silent: not among `workers`."""

    workers: tuple[WorkerInfo, ...] = ()
    unreadable: tuple[str, ...] = ()
    silent: tuple[SilentWorker, ...] = ()

    @property
    def living(self) -> tuple[WorkerInfo, ...]:
        """The workers that have not ended."""
        return tuple(worker for worker in self.workers if worker.fault is None)

    @property
    def ended(self) -> tuple[WorkerInfo, ...]:
        """The workers that ended by a host fault, minutes ago at most."""
        return tuple(worker for worker in self.workers if worker.fault is not None)

    def of_job(self, job_id: str) -> tuple[WorkerInfo, ...]:
        """The living workers that work on a job."""
        return tuple(worker for worker in self.living if any(child.job_id == job_id for child in worker.children))


class WorkerRegistry:
    """The entries of a deployment's workers."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def write(self, info: WorkerInfo, *, life_s: float) -> None:
        """Write the entry of a worker, which is silent after `life_s` seconds, or gone if it ended by a fault."""
        kept_s = 0.0 if info.fault is not None else SILENT_KEPT_S
        with self._redis.pipeline() as pipe:
            data = replace(info, life_s=life_s).pack()
            pipe.set(worker_key(info.token), data, px=int((life_s + kept_s) * 1000))
            pipe.sadd(WORKERS, info.token)
            pipe.expire(WORKERS, INDEX_LIFE_S)
            pipe.execute()

    def remove(self, token: str) -> None:
        """Remove the entry of a worker that ends."""
        with self._redis.pipeline() as pipe:
            pipe.delete(worker_key(token))
            pipe.srem(WORKERS, token)
            pipe.execute()

    def read(self) -> WorkerList:
        """Every entry; the names of those that have expired are removed."""
        tokens = sorted(token.decode(errors="replace") for token in cast("set[bytes]", self._redis.smembers(WORKERS)))
        with self._redis.pipeline() as pipe:
            for token in tokens:
                pipe.get(worker_key(token))
                pipe.pttl(worker_key(token))  # unlike a stored time, it is right after a jump of the clock
            replies = pipe.execute(raise_on_error=False)
        workers, unreadable, silent = [], [], []
        for token, data, left_ms in zip(tokens, replies[::2], replies[1::2], strict=True):
            if data is None:
                self._redis.srem(WORKERS, token)  # if it lives after all, its next heartbeat adds it again
                continue
            try:
                if not isinstance(data, bytes):  # an error: the key has another type
                    raise RecordError("a worker's entry is damaged: it is no text")
                info = WorkerInfo.unpack(data)
                silence_s = _silence_s(info, left_ms)
                if silence_s is not None and info.fault is None:
                    silent.append(SilentWorker(info, round(silence_s, 1)))
                else:
                    workers.append(info)
            except (RecordError, VersionError) as error:
                unreadable.append(f"{token[:40]}: {error}")
        workers.sort(key=lambda info: (info.name, info.token))
        silent.sort(key=lambda one: (one.worker.name, one.worker.token))
        return WorkerList(tuple(workers), tuple(unreadable), tuple(silent))


def _silence_s(info: WorkerInfo, left_ms: int) -> float | None:
    """Seconds since the last word of a worker whose entry expires in `left_ms`; None for one that is not silent."""
    if info.life_s is None or left_ms < 0:
        return None
    silence_s = info.life_s + SILENT_KEPT_S - left_ms / 1000
    return silence_s if silence_s >= info.life_s else None


def made_up_name() -> str:
    """A name for a worker that is given none, different each time; %h is the host."""
    return f"longtake-{secrets.token_hex(3)}@%h"


def same_name(workers: Sequence[WorkerInfo]) -> dict[str, list[WorkerInfo]]:
    """The names that several of these workers share, each with its workers."""
    by_name: dict[str, list[WorkerInfo]] = {}
    for info in workers:
        by_name.setdefault(info.name, []).append(info)
    return {name: sharing for name, sharing in by_name.items() if len(sharing) > 1}


def _clean(value: Any) -> Any:
    """`value` with its texts cut, and without characters that could steer a terminal."""
    if isinstance(value, str):
        return "".join(character if character.isprintable() else "?" for character in value[:TEXT_LIMIT])
    if isinstance(value, dict):
        return {key: _clean(inner) for key, inner in value.items()}
    return [_clean(inner) for inner in value] if isinstance(value, list | tuple) else value
