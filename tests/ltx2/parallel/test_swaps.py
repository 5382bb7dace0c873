"""Swaps among ranks: what is computed between the start of one and its end stays there in compiled code."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor
from torch._inductor.utils import run_and_get_code

from ltx2.acceleration.compile import IN_ORDER
from ltx2.parallel.collectives import end_swap, start_swap
from ltx2.parallel.ranks import Ranks
from tests.ltx2.parallel.processes import RankProcesses

SIZE = 8


def compiled_swap(ranks: Ranks, options: dict[str, Any]) -> tuple[Tensor, list[str]]:
    """What arrives, and the order of operations in the code of a swap and of a product that is needed last."""
    group = str(ranks.group.group_name)

    def swap(parts: Tensor, x: Tensor) -> Tensor:
        started = start_swap(parts, "queries", group)
        product = x @ x
        arrived = end_swap(started, list(parts.shape), "queries", group)
        return arrived @ x @ product

    torch._dynamo.reset()
    compiled = torch.compile(swap, fullgraph=True, dynamic=False, options=options)
    parts = torch.full((ranks.count, SIZE), float(ranks.rank))
    arrived, (code,) = run_and_get_code(compiled, parts, torch.eye(SIZE))
    return arrived, re.findall(r"start_swap(?=\.default\()|end_swap(?=\.default\()|(?<=kernels\.)mm", code)


def test_a_swap_stays_under_way_while_a_product_is_computed(ranks: RankProcesses) -> None:
    # When
    (first, order), (second, _) = ranks.run(2, compiled_swap, IN_ORDER)
    # Then
    assert order == ["start_swap", "mm", "end_swap", "mm", "mm"]
    assert first.tolist() == second.tolist() == [[0.0] * SIZE, [1.0] * SIZE]


def test_without_its_options_the_compiler_ends_a_swap_first(ranks: RankProcesses) -> None:
    order = ranks.run(2, compiled_swap, {})[0][1]
    assert order[:2] == ["start_swap", "end_swap"]
