"""Heartbeats: what each worker of a deployment is and does, in Redis; an entry without a new heartbeat expires."""

from __future__ import annotations

import json
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
TEXT_LIMIT = 200
CHILDREN_LIMIT = 16
ENTRY_LIMIT_BYTES = 16 * 1024


class ChildState(StrEnum):
    """What a worker's child does."""

    LOADING = "loading"
    IDLE = "idle"
    WORKING = "working"


@dataclass(frozen=True, slots=True)
class Gpu:
    """A child's GPU. memory_bytes: all of it, not what is free. uuid: of the device; empty where it is not known."""

    name: str
    memory_bytes: int
    uuid: str = ""


@dataclass(frozen=True, slots=True)
class ChildInfo:
    """A child of a worker. since: when it began what it does, in seconds since the epoch. gpu: None on a CPU."""

    pid: int
    state: ChildState
    since: float
    job_id: str | None = None
    unit: str | None = None
    gpu: Gpu | None = None


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
    fault: why its host cannot render; such a worker has ended.
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

    @property
    def working(self) -> ChildInfo | None:
        """The child that works on a job, if any does."""
        return next((child for child in self.children if child.state == ChildState.WORKING), None)

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
class WorkerList:
    """The entries of all workers, by name. unreadable: why the others cannot be read."""

    workers: tuple[WorkerInfo, ...] = ()
    unreadable: tuple[str, ...] = ()

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
        """Write the entry of a worker; it expires after `life_s` seconds."""
        with self._redis.pipeline() as pipe:
            pipe.set(worker_key(info.token), info.pack(), px=int(life_s * 1000))
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
        found = cast("list[bytes | None]", self._redis.mget(map(worker_key, tokens))) if tokens else []
        workers, unreadable = [], []
        for token, data in zip(tokens, found, strict=True):
            if data is None:
                self._redis.srem(WORKERS, token)  # if it lives after all, its next heartbeat adds it again
                continue
            try:
                workers.append(WorkerInfo.unpack(data))
            except (RecordError, VersionError) as error:
                unreadable.append(f"{token[:40]}: {error}")
        return WorkerList(tuple(sorted(workers, key=lambda info: (info.name, info.token))), tuple(unreadable))


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
