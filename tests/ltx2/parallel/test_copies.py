"""Exchanges by copies, with a stand-in for the driver: a thread does the copies of each rank late, and in order."""

from __future__ import annotations

import ctypes
import mmap
import queue
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from ltx2.parallel import copies
from ltx2.parallel.copies import Copies, _Box
from ltx2.parallel.ranks import Ranks
from tests.ltx2.parallel.processes import RankProcesses

CPU = torch.device("cpu")
BLOCKS = 12
LONGEST_DELAY_S = 0.002
BEFORE_ATTENTION = ("queries", "keys", "values")
AFTER_ATTENTION = ("result", "sound")


class Stream:
    """Runs what it is given in a thread, one after the other, each after a random delay."""

    cuda_stream = 0

    def __init__(self, seed: int) -> None:
        self._work: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._random = random.Random(seed)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            work = self._work.get()
            time.sleep(self._random.uniform(0, LONGEST_DELAY_S))
            work()

    def wait_stream(self, _: object) -> None:
        """A CPU computes at once."""

    def record_event(self) -> threading.Event:
        event = threading.Event()
        self._work.put(event.set)
        return event

    def call(self, function: str, *arguments: Any) -> None:
        """A function of the driver."""
        if function == "cuMemcpyDtoDAsync_v2":
            target, source, size, _ = arguments
            self._work.put(lambda: ctypes.memmove(target.value, source.value, size.value))
            return
        _, address, value, _ = arguments
        flag = ctypes.c_uint32.from_address(address.value)
        if function == "cuStreamWriteValue32_v2":
            self._work.put(lambda: setattr(flag, "value", value.value))
        else:
            self._work.put(lambda: wait_for(flag, value.value))


def wait_for(flag: ctypes.c_uint32, value: int) -> None:
    while flag.value != value:
        time.sleep(0)


def box_in_files(made: Copies, flags: int, folder: Path) -> _Box:
    """A box whose memory all ranks map: `Copies` gets its own from the GPUs."""
    size, number = flags + made._count * 4, len(made._boxes)
    paths = [folder / f"{made._count}-{number}-{rank}" for rank in range(made._count)]
    paths[made._rank].write_bytes(bytes(size))
    dist.barrier(made._group)
    maps = []
    for path in paths:
        with path.open("r+b") as file:
            maps.append(mmap.mmap(file.fileno(), size))
    addresses = [ctypes.addressof(ctypes.c_char.from_buffer(one)) for one in maps]
    return _Box(torch.empty(0), maps, addresses, flags)


def exchange(ranks: Ranks, folder: Path) -> list[str]:
    """Make the exchanges of some blocks; what has arrived wrongly."""
    stream, wrong = Stream(ranks.rank), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "Stream", lambda _: stream)
        patch.setattr(torch.cuda, "current_stream", lambda _: None)
        patch.setattr(copies, "_driver", stream.call)
        patch.setattr(Copies, "_new_box", lambda made, flags: box_in_files(made, flags, folder))
        made = Copies(ranks.group, CPU)
        for block in range(BLOCKS):
            for names in (BEFORE_ATTENTION, AFTER_ATTENTION):
                started: dict[str, Any] = {}
                for place, name in enumerate(names):
                    # the exchange, its sender and its receiver; the parts of every second block are smaller
                    size = 90 - 40 * (block % 2)
                    parts = torch.tensor([[[block, place, ranks.rank, to]] * size for to in range(ranks.count)])
                    started[name] = (*made.start(parts, name), parts)
                for place, name in enumerate(names):
                    result, done, _ = started[name]
                    done.wait()  # type: ignore[attr-defined]  # an event of threads here
                    right = [[block, place, sender, ranks.rank] for sender in range(ranks.count)]
                    if result[:, 0].tolist() != right or result[:, -1].tolist() != right:
                        wrong.append(f"block {block}, {name}")
    return wrong


@pytest.mark.parametrize("count", [2, 4])
def test_nothing_is_overwritten_before_it_is_read(ranks: RankProcesses, tmp_path: Path, count: int) -> None:
    assert ranks.run(count, exchange, tmp_path) == [[]] * count
