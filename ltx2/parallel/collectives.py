"""Torch's functional collectives, which the compiler traces as a part of a block. group: a process group's name.

What `start_...` returns may only be given to `finished`. What is computed in between runs at the same time on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed._functional_collectives  # registers the operations
from torch import Tensor


def start_gather(part: Tensor, count: int, group: str) -> Tensor:
    """Send `part` to all `count` ranks; the result will be `[count, ...]`, with the part of rank i at i."""
    sent: Tensor = torch.ops._c10d_functional.all_gather_into_tensor(part.contiguous()[None], count, group)
    return sent


def gathered(part: Tensor, count: int, group: str) -> Tensor:
    """The `part` of each of `count` ranks, `[count, ...]`."""
    return finished(start_gather(part, count, group))


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
