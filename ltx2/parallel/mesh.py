"""How the ranks of a segment share the transformer's calls: some take other calls, others other tokens of one call."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

from ltx2.errors import DeviceError


@dataclass(frozen=True, slots=True)
class Mesh:
    """`guidance` ranks with calls of their own, times `sequence` ranks that share the tokens of each call."""

    guidance: int
    sequence: int


def check_ranks(count: int, heads: int) -> None:
    """Check that `count` ranks can share the `heads` of an attention.

    Raises:
        DeviceError: they cannot; the message has the counts that can.
    """
    if count < 1 or heads % count:
        possible = ", ".join(str(one) for one in range(1, heads + 1) if heads % one == 0)
        raise DeviceError(
            "gpus", f"{count}, but the {heads} attention heads of this model must divide by it: use one of {possible}"
        )


def mesh_of(count: int, calls: int) -> Mesh:
    """The mesh of `count` ranks for steps of `calls` calls of the transformer, one or more if there is guidance.

    As many ranks as possible take calls of their own, as long as all take as many: those exchange almost nothing. The
    others share tokens. So a step always takes calls / count of the time of a call, if exchanges take none.
    """
    guidance = gcd(count, calls)
    return Mesh(guidance, count // guidance)
