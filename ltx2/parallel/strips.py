"""Strips of a picture, one for each rank, and what ranks exchange so that they decode to the whole picture."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ltx2.parallel.collectives import finished, gathered, start_exchange
from ltx2.parallel.ranks import Ranks

LEAST_LATENTS = 2
"""Latents across the narrowest strip. A reflected border needs two of them."""


@dataclass(frozen=True, slots=True)
class Strip:
    """The part of a picture that this rank has: one of `count` strips along an axis of `[B, C, F, H, W]`.

    length: of the axis in latents. Pictures of all resolutions between those of latents and of pixels are split alike.
    If there are more ranks than strips, the ranks at the end have the last strip too, and nothing is received from
    them: all ranks must make the same calls. group: the name of the process group of the `ranks`.
    """

    rank: int
    ranks: int
    group: str
    axis: int
    length: int
    count: int

    @property
    def index(self) -> int:
        """This rank's strip, from 0."""
        return self._index_of(self.rank)

    def cut(self, picture: Tensor) -> Tensor:
        """This rank's part of a whole `picture`."""
        begin, end = self._bounds(self.index)
        unit = picture.shape[self.axis] // self.length
        return picture.narrow(self.axis, begin * unit, (end - begin) * unit)

    def join(self, part: Tensor) -> Tensor:
        """The whole picture, on all ranks, of each rank's `part`.

        Parts whose widths differ are padded to the widest, because NCCL and gloo gather equal sizes only.
        """
        bounds = [self._bounds(index) for index in range(self.count)]
        own = bounds[self.index]
        unit = part.shape[self.axis] // (own[1] - own[0])
        widths = [(end - begin) * unit for begin, end in bounds]
        first = part.movedim(self.axis, 0)
        sent = first.new_zeros(max(widths), *first.shape[1:])
        sent[: len(first)] = first
        parts = gathered(sent, self.ranks, self.group)[: self.count]
        whole = torch.cat([part[:width] for part, width in zip(parts, widths, strict=True)])
        return whole.movedim(0, self.axis)

    def all_true(self, flag: Tensor) -> Tensor:
        """Whether the bool `flag` is true on all ranks."""
        return gathered(flag.to(torch.uint8), self.ranks, self.group).bool().all()

    def with_neighbours(self, part: Tensor, width: int, mode: str) -> Tensor:
        """`part`, extended along the axis by `width` values on both sides: those of the neighbours' strips.

        At the border of the picture, where there is no neighbour, it is padded. mode: `zeros`, `reflect` or
        `replicate`, as in a convolution of torch.
        """
        shape = list(part.shape)
        shape[self.axis] = width
        received = list(self._exchange(part, width))
        if self.index > 0:
            before = received.pop(0).view(shape)
        else:
            before = _border(part.narrow(self.axis, 0, width + 1), self.axis, mode)
        if self.index + 1 < self.count:
            after = received.pop().view(shape)
        else:
            end = part.narrow(self.axis, part.shape[self.axis] - width - 1, width + 1)
            after = _border(end.flip(self.axis), self.axis, mode).flip(self.axis)
        return torch.cat([before, part, after], dim=self.axis)

    def _exchange(self, part: Tensor, width: int) -> tuple[Tensor, ...]:
        """The neighbours' edges next to this strip, flat: of the strip before, if there is one, and of that after."""
        first = part.narrow(self.axis, 0, width).flatten()
        last = part.narrow(self.axis, part.shape[self.axis] - width, width).flatten()
        others = [self._index_of(rank) for rank in range(self.ranks)]
        edges = {self.index - 1: first, self.index + 1: last} if self.rank == self.index else {}
        sent = torch.cat([edges.get(other, first[:0]) for other in others])
        sent_sizes = [len(first) if other in edges else 0 for other in others]
        neighbours = [rank for rank in (self.index - 1, self.index + 1) if 0 <= rank < self.count]
        received_sizes = [len(first) if rank in neighbours else 0 for rank in range(self.ranks)]
        received = finished(start_exchange(sent, received_sizes, sent_sizes, self.group))
        return received.view(-1, len(first)).unbind()

    def _bounds(self, index: int) -> tuple[int, int]:
        return self.length * index // self.count, self.length * (index + 1) // self.count

    def _index_of(self, rank: int) -> int:
        return min(rank, self.count - 1)


def strip_of(ranks: Ranks, height: int, width: int) -> Strip | None:
    """The strip of this rank in a picture of `height` x `width` latents, along its longer side.

    None: the picture is too small for two strips, and each rank decodes all of it.
    """
    length = max(height, width)
    count = min(ranks.count, length // LEAST_LATENTS)
    axis = 4 if width == length else 3
    return Strip(ranks.rank, ranks.count, ranks.group.group_name, axis, length, count) if count > 1 else None


def _border(first: Tensor, axis: int, mode: str) -> Tensor:
    """What a convolution sees before the first n + 1 values of a picture: n values."""
    width = first.shape[axis] - 1
    if mode == "reflect":
        return first.narrow(axis, 1, width).flip(axis)
    edge = first.narrow(axis, 0, 1).repeat_interleave(width, axis)
    return edge if mode == "replicate" else torch.zeros_like(edge)
