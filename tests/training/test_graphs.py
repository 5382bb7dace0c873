"""Training with CUDA graphs, on a CUDA device: `pytest -m gpu tests/training/test_graphs.py`."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from training.graphs import WARM_UP, Graphs, Step

pytestmark = pytest.mark.gpu


@dataclass(frozen=True)
class Batch:
    """Inputs `[B, 3]`; those of kind "twice" count twice."""

    kind: str
    inputs: Tensor


def learner() -> tuple[Tensor, Step]:
    """Weights, and a step of gradient descent on them."""
    weights = torch.ones(3, device="cuda", requires_grad=True)
    optimizer = torch.optim.SGD([weights], lr=0.1)

    def step(batch: Batch) -> dict[str, Tensor]:
        optimizer.zero_grad(set_to_none=True)
        loss = (batch.inputs @ weights).square().mean() * (2 if batch.kind == "twice" else 1)
        torch.autograd.backward([loss])
        optimizer.step()
        return {"loss": loss.detach()}

    return weights, step


def test_a_graph_learns_what_plain_steps_learn() -> None:
    # Given batches of two shapes and two kinds, each of which is used more than once
    torch.manual_seed(0)
    shapes = [("once", 4), ("once", 4), ("once", 6), ("twice", 4), ("once", 6), ("twice", 4)]
    batches = [Batch(kind, torch.rand(size, 3, device="cuda")) for kind, size in shapes]
    learned, step = learner()
    expected, plain = learner()
    graphs = Graphs(step)
    seen = set()
    for batch, shape in zip(batches, shapes, strict=True):
        # When
        loss = graphs(batch)["loss"]
        # Then it learned from the batch once, or WARM_UP more times if its kind and shape are new
        for _ in range(1 if shape in seen else WARM_UP + 1):
            right = plain(batch)["loss"]
        seen.add(shape)
        torch.testing.assert_close(loss, right)
        torch.testing.assert_close(learned, expected)
