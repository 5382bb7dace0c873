"""What the children of a worker do, in memory that they share with its main process."""

from __future__ import annotations

import json
import os
import struct
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace

from billiard import current_process
from pydantic import TypeAdapter

from tasks.jobs.results import Claim
from tasks.jobs.workers import CHILDREN_LIMIT, ChildInfo, ChildState, Gpu
from tasks.worker.heartbeats.shared_memory import SharedMemory

SLOT_BYTES = 1024
HEAD = struct.Struct("<II")  # length and CRC-32: the main process may read while a child writes
_CHILD = TypeAdapter(ChildInfo)


class ActivityBoard(SharedMemory):
    """One slot for each child, written by the child, read by the worker's main process. Times are of this host."""

    def __init__(self) -> None:
        super().__init__(SLOT_BYTES * CHILDREN_LIMIT)
        self._gpu: Gpu | None = None
        self._ranks = 1

    def loading(self) -> None:
        """This child loads its model."""
        self._write(ChildInfo(os.getpid(), ChildState.LOADING, time.time()))

    def ready(self, gpu: Gpu | None, ranks: int = 1) -> None:
        """This child waits for work. ranks: see `ChildInfo`."""
        self._gpu, self._ranks = gpu, ranks
        self._write(ChildInfo(os.getpid(), ChildState.IDLE, time.time(), gpu=gpu, ranks=ranks))

    @contextmanager
    def working(self, claim: Claim) -> Iterator[None]:
        """This child works on a claim in this block."""
        working = ChildInfo(
            *(os.getpid(), ChildState.WORKING, time.time()),
            job_id=claim.job_id,
            unit=str(claim.unit),
            gpu=self._gpu,
            ranks=self._ranks,
        )
        self._write(working)
        try:
            yield
        finally:
            self.ready(self._gpu, self._ranks)

    def children(self, *, clock_offset_s: float) -> tuple[ChildInfo, ...]:
        """What each child does, with times by a clock that this host's is ahead of by `clock_offset_s`."""
        found = [self._read(slot) for slot in range(CHILDREN_LIMIT)]
        alive = [child for child in found if child and _is_alive(child.pid)]
        return tuple(replace(child, since=child.since - clock_offset_s) for child in alive)

    def _write(self, info: ChildInfo) -> None:
        slot = getattr(current_process(), "index", 0)
        data = json.dumps(asdict(info)).encode()
        if slot < CHILDREN_LIMIT and len(data) <= SLOT_BYTES - HEAD.size:
            start = slot * SLOT_BYTES
            packed = HEAD.pack(len(data), zlib.crc32(data)) + data
            self._memory[start : start + len(packed)] = packed

    def _read(self, slot: int) -> ChildInfo | None:
        start = slot * SLOT_BYTES
        block = self._memory[start : start + SLOT_BYTES]
        length, crc = HEAD.unpack_from(block)
        data = block[HEAD.size : HEAD.size + length]
        if not length or zlib.crc32(data) != crc:
            return None
        return _CHILD.validate_json(data)


def _is_alive(pid: int) -> bool:
    """Whether there is such a process; a slot keeps what a killed child wrote."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
