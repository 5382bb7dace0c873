"""Rows of a benchmark that several processes measure together, one rank each. If one fails, the rows after it go on.

for row in rank_rows.measured(2, prepare, [{"size": "768x512"}, {"size": "1536x1024"}], limit_s=240): ...
"""

from __future__ import annotations

import multiprocessing
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor

from ltx2.processes import die_with_parent

Row: TypeAlias = dict[str, Any]
Measure: TypeAlias = Callable[..., Row]
"""Called with the keys of a work as arguments, by all ranks in step. The row is that of rank 0."""
Prepare: TypeAlias = Callable[[int], Measure]
"""Called once in each process with its rank; torch's default process group is there. It must be picklable."""


def measured(count: int, device: str, prepare: Prepare, works: Sequence[Row], limit_s: float) -> Iterator[Row]:
    """Each of `works` with its row, as soon as it is measured, or with an `error`; new processes then do the next.

    count: processes. device: cuda, or cpu. limit_s: for a work, and for the preparation, without which none is done.
    """
    left = list(works)
    while left:
        began = time.perf_counter()
        with _processes(count, device, prepare, left) as pipes:
            row = _next(pipes, limit_s)
            if "error" in row:
                yield from (work | row for work in left)
                return
            print(f"{count} processes are ready after {time.perf_counter() - began:.0f} s", flush=True)
            while left and "error" not in row:
                row = _next(pipes, limit_s)
                yield left.pop(0) | row


def _next(pipes: Sequence[Connection], limit_s: float) -> Row:
    """What rank 0 says next, when all have said something; or the first error."""
    end, answers = time.monotonic() + limit_s, dict[int, Row]()
    while len(answers) < len(pipes):
        waiting = [pipe for rank, pipe in enumerate(pipes) if rank not in answers]
        ready = wait(waiting, max(0.0, end - time.monotonic()))
        if not ready:
            return {"error": f"nothing was measured within {limit_s:g} s"}
        for pipe in ready:
            rank = pipes.index(pipe)  # type: ignore[arg-type]  # only connections are waited for
            try:
                answers[rank] = pipes[rank].recv()
            except EOFError:
                return {"error": f"rank {rank} died"}
            if "error" in answers[rank]:
                return answers[rank]
    return answers[0]


@contextmanager
def _processes(count: int, device: str, prepare: Prepare, works: Sequence[Row]) -> Iterator[list[Connection]]:
    """A connection to each of `count` processes, which are killed at the end: they may wait for one that failed."""
    context = multiprocessing.get_context("forkserver")
    pipes, processes = [], []
    with TemporaryDirectory() as folder:
        try:
            for rank in range(count):
                ours, theirs = context.Pipe()
                arguments = (theirs, rank, count, device, f"{folder}/store", prepare, works)
                processes.append(context.Process(target=_serve, args=arguments))
                processes[-1].start()
                theirs.close()
                pipes.append(ours)
            yield pipes
        finally:
            for process in processes:
                process.kill()
                process.join()


def _serve(
    pipe: Connection, rank: int, count: int, device: str, store: str, prepare: Prepare, works: Sequence[Row]
) -> None:
    die_with_parent()
    try:
        if device == "cuda":
            torch.cuda.set_device(rank)
        else:
            torch.set_num_threads(1)
        backend = "nccl" if device == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=f"file://{store}", rank=rank, world_size=count)
        measure = prepare(rank)
        pipe.send({})
        for work in works:
            pipe.send(measure(**work))
    except Exception as error:
        traceback.print_exc()
        pipe.send({"error": f"rank {rank}: {type(error).__name__}: {error}"})
    pipe.recv()  # until the others have ended, too


class Results:
    """Results of the first measurement of each name, in a folder, to compare later ones with."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def first(self, name: str, result: Sequence[Tensor]) -> list[Tensor] | None:
        """That of `name`; None if `result` is the first, which is kept."""
        path = self._folder / f"{name}.pt"
        if path.exists():
            kept: list[Tensor] = torch.load(path)
            return kept
        torch.save(list(result), path)
        return None


def exit_if_failed(rows: Sequence[Row]) -> None:
    """Exit with 1 if rows have failed, and say which."""
    failed = [", ".join(f"{key} {value}" for key, value in row.items()) for row in rows if "error" in row]
    if failed:
        sys.exit("failed: " + "\nfailed: ".join(failed))
