"""What ranks exchange while they compute one call of the transformer together.

Each rank has an equal part of the picture's tokens, in order; the last parts end with padding. Sound and text are whole
on every rank. For attention over all tokens, each rank gets all of them for its part of the heads, and gives back its
own tokens with all heads (Jacobs et al. 2023, DeepSpeed Ulysses).

An exchange is started by one call and ended by another. What is computed in between runs at the same time on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from ltx2.parallel.collectives import end_swap, gathered, start_swap

Name: TypeAlias = Literal["queries", "keys", "values", "result", "keys for sound", "values for sound", "sound"]
"""What is exchanged in a block."""


class Exchange(Protocol):
    """The exchanges of a block, of `H` heads of `D` channels. `t` and `T`: tokens on this rank and on all; `h`: heads.

    What `start_...` returns may only be given to its counterpart.
    """

    def start_heads(self, x: Tensor, name: Name) -> Any:
        """Send picture tokens `[B, t, H, D]`."""

    def heads(self, started: Any) -> Tensor:
        """All picture tokens with this rank's heads, `[B, T, h, D]`, without padding."""

    def start_tokens(self, x: Tensor, name: Name) -> Any:
        """Send what `heads` returned, or the like."""

    def tokens(self, started: Any) -> Tensor:
        """This rank's picture tokens with all heads, `[B, t, H, D]`."""

    def own_heads(self, x: Tensor) -> Tensor:
        """This rank's heads `[B, A, h, D]` of what every rank has, `[B, A, H, D]`."""

    def start_all_heads(self, x: Tensor, name: Name) -> Any:
        """Send this rank's heads of sound, `[B, A, h, D]`."""

    def all_heads(self, started: Any) -> Tensor:
        """All heads of sound, `[B, A, H, D]`."""


@dataclass(frozen=True, slots=True)
class Alone:
    """The exchanges of a single process: none."""

    def start_heads(self, x: Tensor, name: Name) -> Any:
        return x

    start_tokens = start_all_heads = start_heads

    def heads(self, started: Any) -> Tensor:
        there: Tensor = started
        return there

    tokens = own_heads = all_heads = heads


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

    def start_heads(self, x: Tensor, name: Name) -> Any:
        """See `Exchange`."""
        return self._start(x.reshape(*x.shape[:2], self.count, -1, x.shape[3]).permute(2, 0, 1, 3, 4), name)

    def heads(self, started: Any) -> Tensor:
        """See `Exchange`."""
        return self._end(started).transpose(0, 1).flatten(1, 2)[:, : self.total]

    def start_tokens(self, x: Tensor, name: Name) -> Any:
        """See `Exchange`."""
        missing = -self.total % self.count
        padded = F.pad(x, (0, 0, 0, 0, 0, missing)) if missing else x
        return self._start(padded.reshape(x.shape[0], self.count, -1, *x.shape[2:]).transpose(0, 1), name)

    def tokens(self, started: Any) -> Tensor:
        """See `Exchange`."""
        return self._end(started).permute(1, 2, 0, 3, 4).flatten(2, 3)

    def own_heads(self, x: Tensor) -> Tensor:
        """See `Exchange`."""
        return x.chunk(self.count, 2)[self.rank]

    def start_all_heads(self, x: Tensor, name: Name) -> Any:
        """See `Exchange`."""
        return self._start(x[None].expand(self.count, *x.shape), name)

    def all_heads(self, started: Any) -> Tensor:
        """See `Exchange`."""
        return self._end(started).permute(1, 2, 0, 3, 4).flatten(2, 3)

    def _start(self, parts: Tensor, name: Name) -> Any:
        """Send `parts[i]` to rank i; the result will have the part of rank i at i."""
        parts = parts.contiguous()
        return start_swap(parts, name, self.group), list(parts.shape), name

    def _end(self, started: Any) -> Tensor:
        sent, shape, name = started
        arrived: Tensor = end_swap(sent, shape, name, self.group)
        return arrived
