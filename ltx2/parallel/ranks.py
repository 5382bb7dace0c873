"""The processes that render one segment together."""

from __future__ import annotations

from dataclasses import dataclass

from torch.distributed import ProcessGroup


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those that render one segment together: its rank from 0, how many there are, their group.

    All ranks make the same calls in the same order.
    """

    rank: int
    count: int
    group: ProcessGroup
