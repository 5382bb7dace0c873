"""Exchanges by copies, with a stand-in for the driver: a thread does the copies of each stream late, and in order."""

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

    def __init__(self, seed: int) -> None:
        self.cuda_stream = seed
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
    return _Box(torch.frombuffer(maps[made._rank], dtype=torch.uint8), maps, addresses, flags)


def exchange(ranks: Ranks, folder: Path) -> list[str]:
    """Make the exchanges of some blocks; what has arrived wrongly."""
    streams: list[Stream] = []
    wrong = []

    def new_stream(_: torch.device) -> Stream:
        streams.append(Stream(len(streams)))
        return streams[-1]

    def driver(function: str, *arguments: Any) -> None:
        (number,) = [one.value or 0 for one in arguments if isinstance(one, ctypes.c_void_p)]
        streams[number].call(function, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "Stream", new_stream)
        patch.setattr(torch.cuda, "current_stream", lambda _: None)
        patch.setattr(copies, "_driver", driver)
        patch.setattr(Copies, "_new_box", lambda made, flags: box_in_files(made, flags, folder))
        made = Copies(ranks.group, CPU)
        for block in range(BLOCKS):
            for names in (BEFORE_ATTENTION, AFTER_ATTENTION):
                started: list[Any] = []
                for place, name in enumerate(names):
                    # the exchange, its sender and its receiver; the parts of every second block are smaller
                    sent = [[[block, place, ranks.rank, to]] * (90 - 40 * (block % 2)) for to in range(ranks.count)]
                    parts = torch.tensor(sent)
                    started.append((*made.start(parts, name), parts))
                arrived = []
                for result, done, _ in started:
                    done.wait()  # an event of threads here
                    arrived.append(result.clone())
                time.sleep(random.uniform(0, LONGEST_DELAY_S))
                for place, (result, _, _) in enumerate(started):  # which is read until the next exchanges start
                    right = [[block, place, sender, ranks.rank] for sender in range(ranks.count)]
                    if any(
                        there[:, token].tolist() != right for there in (arrived[place], result) for token in (0, -1)
                    ):
                        wrong.append(f"block {block}, {names[place]}")
    return wrong


@pytest.mark.parametrize("count", [2, 4])
def test_nothing_is_overwritten_before_it_is_read(ranks: RankProcesses, tmp_path: Path, count: int) -> None:
    assert ranks.run(count, exchange, tmp_path) == [[]] * count
