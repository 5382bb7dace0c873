"""Blocks that are called as CUDA graphs. On a CPU, what would be captured is computed again at each call."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from ltx2.acceleration.block_graphs import BlockGraphs, Compute
from ltx2.acceleration.cuda_graphs import KEPT
from ltx2.acceleration.fast_block import CallTokens
from ltx2.engine import Engine
from ltx2.parallel.ranks import Ranks
from ltx2.request import SegmentOutput, SegmentRequest
from ltx2.timeline import SegmentShape, exact, first_timing, next_timing

FIRST = first_timing(SegmentShape(25, exact(24)))


class Block(nn.Module):
    """Adds the levels of the picture's tokens and scales both streams by one weight."""

    def __init__(self, tokens: CallTokens) -> None:
        super().__init__()
        self.tokens = tokens
        self.weight = nn.Parameter(torch.tensor(2.0), requires_grad=False)

    def forward(self, hidden_states: Tensor, audio_hidden_states: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        return (hidden_states + self.tokens.video) * self.weight, audio_hidden_states * self.weight + shift


class Graphs:
    """Two blocks, and how often they were captured."""

    def __init__(self) -> None:
        self.tokens = CallTokens(torch.zeros(0), torch.zeros(0))
        self.blocks = [Block(self.tokens), Block(self.tokens)]
        self.captures = 0
        self._graphs = BlockGraphs(self.blocks, self.tokens, self._capture)

    def __call__(self, video: float, shape: int = 1, level: float = 0.0) -> tuple[float, float]:
        self.tokens.video = torch.full((shape,), level)
        streams = self._graphs(
            hidden_states=torch.full((shape,), float(video)), audio_hidden_states=torch.ones(1), shift=torch.ones(1)
        )
        return float(streams[0][0]), float(streams[1][0])

    def _capture(self, compute: Compute) -> Compute:
        self.captures += 1
        return compute


def test_a_shape_is_captured_once_and_reads_what_each_call_is_given() -> None:
    graphs = Graphs()
    assert graphs(1) == (4, 7)
    assert graphs(3) == (12, 7)
    assert graphs(3, level=1.0) == (18, 7)
    assert graphs.captures == 1
    assert graphs(5, shape=2) == (20, 7)
    assert graphs.captures == 2


def test_weights_may_change_where_they_are_and_blocks_are_captured_again_if_they_move() -> None:
    # Given
    graphs = Graphs()
    graphs(1)
    weight = graphs.blocks[0].weight
    # When / Then
    weight.copy_(torch.tensor(3.0))
    assert graphs(1) == (6, 9)
    assert graphs.captures == 1
    weight.data = torch.tensor(4.0)
    assert graphs(1) == (8, 11)
    assert graphs.captures == 2


def test_the_graphs_used_last_are_kept() -> None:
    # Given
    graphs = Graphs()
    for shape in range(1, KEPT + 1):
        graphs(1, shape)
    graphs(1, 1)
    # When
    graphs(1, KEPT + 1)
    # Then the second is gone, and no other
    for shape in (1, *range(3, KEPT + 2)):
        graphs(1, shape)
    assert graphs.captures == KEPT + 1
    graphs(1, 2)
    assert graphs.captures == KEPT + 2


@pytest.mark.gpu
@pytest.mark.filterwarnings("default")  # warnings of the compiler
def test_graphs_give_the_bytes_of_blocks_that_are_launched(models: dict[str, Path]) -> None:
    # Given
    engine = Engine.load(
        str(models["tiny"]), device="cuda", precision="bf16", ranks=Ranks(0, 1, cast("ProcessGroup", None))
    )
    transformer = engine.pipeline.transformer
    blocks = transformer.transformer_blocks

    def second_segment() -> SegmentOutput:
        first = engine.run(SegmentRequest("a boat leaves", 7, 96, 64, FIRST))
        return engine.run(SegmentRequest("gulls follow", 8, 96, 64, next_timing(FIRST)), first.state)

    # When
    replayed = [second_segment() for _ in range(2)]
    transformer.graphs = BlockGraphs(blocks, blocks[0].tokens, lambda compute: compute)
    launched = second_segment()
    # Then
    for one in replayed:
        assert torch.equal(one.video_latents, launched.video_latents)
        assert torch.equal(one.audio_latents, launched.audio_latents)
