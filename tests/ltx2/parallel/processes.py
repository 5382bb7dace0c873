"""Processes that work together as ranks, over gloo on this machine."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import torch
import torch.distributed as dist

from ltx2.parallel.ranks import Ranks

PRELOADED = ["ltx2.engine", "tests.ltx2.parallel.processes"]
"""What processes have imported before they are forked: importing torch takes seconds."""


class RankProcesses:
    """`most` processes, of which the first ones run a function as ranks. folder: empty, for them to find each other."""

    def __init__(self, most: int, folder: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(most):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, rank, most, str(folder / "store")), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def run(self, count: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What `function(ranks, *arguments)` returns on each of `count` ranks. All of it must be picklable."""
        for pipe in self._pipes[:count]:
            pipe.send((count, function, arguments))
        answers = [pipe.recv() for pipe in self._pipes[:count]]
        problems = [problem for _, problem in answers if problem]
        assert not problems, "\n".join(problems)
        return [result for result, _ in answers]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(10)
            process.kill()


def _serve(pipe: Connection, rank: int, most: int, store: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=most)
    groups = {count: dist.new_group(list(range(count))) for count in range(1, most + 1)}
    while True:
        try:
            count, function, arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((function(Ranks(rank, count, groups[count]), *arguments), None))
        except Exception:
            pipe.send((None, f"rank {rank}: {traceback.format_exc()}"))
