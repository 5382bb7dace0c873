"""Collectives as operations that the compiler traces as a part of a block. group: a process group's name.

`gathered` and `start_exchange` call torch's; what `start_exchange` returns may only be given to `finished`.
`start_swap` and `end_swap` are longtake's: GPUs of a host that reach each other's memory swap by copy engines.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives  # registers the operations
from torch import Tensor, library
from torch._C._distributed_c10d import _resolve_process_group

from ltx2.parallel.copies import Copies, can_copy

log = logging.getLogger(__name__)


def gathered(part: Tensor, count: int, group: str) -> Tensor:
    """The `part` of each of `count` ranks, `[count, ...]`, that of rank i at i."""
    sent: Tensor = torch.ops._c10d_functional.all_gather_into_tensor(part.contiguous()[None], count, group)
    return finished(sent)


def start_exchange(parts: Tensor, received: Sequence[int], sent: Sequence[int], group: str) -> Tensor:
    """Send the first `sent[0]` entries of `parts` to rank 0, the next `sent[1]` to rank 1, and so on.

    The result will have `received[i]` entries of rank i, in order.
    """
    started: Tensor = torch.ops._c10d_functional.all_to_all_single(parts.contiguous(), received, sent, group)
    return started


def finished(started: Tensor) -> Tensor:
    """What has arrived."""
    arrived: Tensor = torch.ops._c10d_functional.wait_tensor(started)
    return arrived


@library.custom_op("longtake::start_swap", mutates_args=())
def start_swap(parts: Tensor, name: str, group: str) -> Tensor:
    """Send `parts[i]` to rank i. name: of this swap until it ends; `Copies` says when a name can be used again.

    Returns a placeholder for `end_swap`. Until that is called, a compiler must not write to the memory of `parts`.
    """
    copies = _copies(group, parts.device) if parts.is_cuda else None
    if copies is not None:
        result, done = copies.start(parts, name)
        _swaps[group, name] = result, done.wait, parts
    else:
        result = torch.empty_like(parts)
        work = dist.all_to_all_single(result, parts, group=_group(group), async_op=True)
        if parts.is_cuda:
            work.wait()  # NCCL at the same time as products makes both slower
        _swaps[group, name] = result, work.wait, parts
    return parts.new_empty(1)


@start_swap.register_fake
def _(parts: Tensor, name: str, group: str) -> Tensor:
    return parts.new_empty(1)


@library.custom_op("longtake::end_swap", mutates_args=())
def end_swap(started: Tensor, shape: list[int], name: str, group: str) -> Tensor:
    """What has arrived, with the part of rank i at i, in the shape of the parts that were sent."""
    result, wait, _ = _swaps.pop((group, name))
    wait()
    return result


@end_swap.register_fake
def _(started: Tensor, shape: list[int], name: str, group: str) -> Tensor:
    return started.new_empty(shape)


_swaps: dict[tuple[str, str], tuple[Tensor, Callable[[], object], Tensor]] = {}
"""The swaps under way, by group and name: the result, what waits for it, and what is sent, kept until then."""


@functools.cache
def _copies(group: str, device: torch.device) -> Copies | None:
    """The copies of a group; None if those of one of its GPUs do not work. Rank i has the GPU `first` + i."""
    members = _group(group)
    ranks = dist.get_process_group_ranks(members)
    first = device.index - dist.get_rank()
    if not can_copy([first + rank for rank in ranks]):
        return None
    works = torch.ones(1, device=device)
    copies = Copies(members, device)
    sent = torch.full((len(ranks), 1), 1 + dist.get_rank(members), device=device)
    try:
        received, done = copies.start(sent, "trial")
        done.synchronize()
        if received.flatten().tolist() != list(range(1, 1 + len(ranks))):
            raise RuntimeError("what arrives is not what was sent")
    except RuntimeError as error:  # a container may forbid it
        log.warning("GPUs exchange through NCCL, which is slower: copies do not work here: %s", error)
        works.zero_()
    dist.all_reduce(works, dist.ReduceOp.MIN, group=members)
    return copies if works.item() else None


def _group(name: str) -> dist.ProcessGroup:
    return _resolve_process_group(name)  # type: ignore[arg-type]  # a NewType of str
