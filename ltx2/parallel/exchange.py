"""What ranks exchange while they compute one call of the transformer together.

Each rank has an equal part of the picture's tokens, in order; the last parts end with padding. Sound and text are whole
on every rank. For attention over all tokens, each rank gets all of them for its part of the heads, and gives back its
own tokens with all heads (Jacobs et al. 2023, DeepSpeed Ulysses).

An exchange is started by one call and ended by another. What is computed in between runs at the same time on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ltx2.parallel.collectives import finished, gathered, start_exchange, start_gather


class Exchange(Protocol):
    """The exchanges of a block, of `H` heads of `D` channels. `t` and `T`: tokens on this rank and on all; `h`: heads.

    What `start_...` returns may only be given to its counterpart.
    """

    def start_heads(self, x: Tensor) -> Tensor:
        """Send picture tokens `[B, t, H, D]`."""

    def heads(self, started: Tensor) -> Tensor:
        """All picture tokens with this rank's heads, `[B, T, h, D]`, without padding."""

    def start_tokens(self, x: Tensor) -> Tensor:
        """Send what `heads` returned, or the like."""

    def tokens(self, started: Tensor) -> Tensor:
        """This rank's picture tokens with all heads, `[B, t, H, D]`."""

    def own_heads(self, x: Tensor) -> Tensor:
        """This rank's heads `[B, A, h, D]` of what every rank has, `[B, A, H, D]`."""

    def start_all_heads(self, x: Tensor) -> Tensor:
        """Send this rank's heads of sound, `[B, A, h, D]`."""

    def all_heads(self, started: Tensor) -> Tensor:
        """All heads of sound, `[B, A, H, D]`."""


class Alone:
    """The exchanges of a single process: none."""

    def start_heads(self, x: Tensor) -> Tensor:
        return x

    heads = start_tokens = tokens = own_heads = start_all_heads = all_heads = start_heads


@dataclass(frozen=True, slots=True)
class Shared:
    """The exchanges of this `rank` among `count`, in a process group of this name. total: `T`, without padding."""

    group: str
    rank: int
    count: int
    total: int

    def own(self, x: Tensor, dim: int) -> Tensor:
        """This rank's part of `x`, which has one entry per picture token in `dim`; padding repeats the last."""
        if missing := -self.total % self.count:
            x = torch.cat([x, *[x.narrow(dim, self.total - 1, 1)] * missing], dim)
        return x.chunk(self.count, dim)[self.rank]

    def all(self, x: Tensor) -> Tensor:
        """The tokens `[B, T, C]` of all ranks, whose parts are `[B, t, C]`, without padding."""
        return gathered(x, self.count, self.group).transpose(0, 1).flatten(1, 2)[:, : self.total]

    def start_heads(self, x: Tensor) -> Tensor:
        """See `Exchange`."""
        return self._start(x.reshape(*x.shape[:2], self.count, -1, x.shape[3]).permute(2, 0, 1, 3, 4))

    def heads(self, started: Tensor) -> Tensor:
        """See `Exchange`."""
        return finished(started).transpose(0, 1).flatten(1, 2)[:, : self.total]

    def start_tokens(self, x: Tensor) -> Tensor:
        """See `Exchange`."""
        missing = -self.total % self.count
        padded = F.pad(x, (0, 0, 0, 0, 0, missing)) if missing else x
        return self._start(padded.reshape(x.shape[0], self.count, -1, *x.shape[2:]).transpose(0, 1))

    def tokens(self, started: Tensor) -> Tensor:
        """See `Exchange`."""
        return finished(started).permute(1, 2, 0, 3, 4).flatten(2, 3)

    def own_heads(self, x: Tensor) -> Tensor:
        """See `Exchange`."""
        return x.chunk(self.count, 2)[self.rank]

    def start_all_heads(self, x: Tensor) -> Tensor:
        """See `Exchange`."""
        return start_gather(x, self.count, self.group)

    def all_heads(self, started: Tensor) -> Tensor:
        """See `Exchange`."""
        return finished(started).permute(1, 2, 0, 3, 4).flatten(2, 3)

    def _start(self, parts: Tensor) -> Tensor:
        """Send `parts[i]` to rank i; the result will have the part of rank i at i."""
        each = [1] * self.count
        return start_exchange(parts, each, each, self.group)
