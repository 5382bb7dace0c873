"""Segments that ranks render together have the latents of one process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from diffusers import LTX2VideoTransformer3DModel
from numpy.typing import NDArray
from torch import Tensor
from torch._dynamo.utils import counters

from ltx2.acceleration.block_graphs import BlockGraphs
from ltx2.engine import Engine
from ltx2.model.weights.loading import load_pipeline
from ltx2.parallel.exchange import Shared
from ltx2.parallel.ranks import Ranks
from ltx2.preparation import EngineSettings
from ltx2.request import PinnedEnd, PlacedImage, SegmentRequest
from ltx2.sampling import OFF, Sampling
from ltx2.state.continuation import LTX2ContinuationState
from ltx2.timeline import SegmentShape, exact, first_timing, next_timing
from tests.ltx2.parallel.processes import RankProcesses

TOLERANCE = 1e-5
"""Of latents in float32, relative to their norm; ranks sum in another order."""

FIRST = first_timing(SegmentShape(33, exact(24)))
QUICK = Sampling(sigmas=(1.0, 0.6))
GUIDED = Sampling(distilled=False, steps=2)
CALLS = {
    4: GUIDED,
    3: replace(GUIDED, guidance=OFF["guidance"]),
    2: replace(GUIDED, stg=OFF["stg"], modality=OFF["modality"]),
}
"""Guidance with so many calls, one of them for the prompt itself."""

Work: TypeAlias = tuple[SegmentRequest, LTX2ContinuationState | None]
Latents: TypeAlias = tuple[Tensor, Tensor]


def request_of(timing: Any = FIRST, sampling: Sampling = QUICK, **more: Any) -> SegmentRequest:
    """96x96 pixels and 33 frames: 45 tokens, which neither two nor four ranks can split evenly."""
    return SegmentRequest("a boat", 3, 96, 96, timing, sampling, **more)


def picture() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)


def engine_of(folder: Path, ranks: Ranks | None = None, compiler: str = "off") -> Engine:
    """A small model with four heads instead of two, and with weights so large that every term of a block matters."""
    pipeline = load_pipeline(folder, torch.float32)
    heads = {"num_attention_heads": 4, "attention_head_dim": 16}
    heads |= {"audio_num_attention_heads": 4, "audio_attention_head_dim": 8}
    torch.manual_seed(0)
    transformer = LTX2VideoTransformer3DModel.from_config(dict(pipeline.transformer.config) | heads).eval()
    with torch.no_grad():
        for weights in transformer.parameters():
            weights.normal_(0, 0.1)
    pipeline.register_modules(transformer=transformer)
    settings = EngineSettings(torch.device("cpu"), "fp32", compiler=compiler)
    return Engine.ready(pipeline, settings, source=folder, ranks=ranks)


def latents_of(engine: Engine, works: list[Work]) -> list[Latents]:
    outputs = [engine.run(*work) for work in works]
    return [(output.video_latents, output.audio_latents) for output in outputs]


def render(ranks: Ranks, folder: Path, works: list[Work]) -> list[Latents]:
    return latents_of(engine_of(folder, ranks), works)


def render_through_graphs(ranks: Ranks, folder: Path, works: list[Work]) -> list[Latents]:
    """As `render`, with the blocks called as graphs are, but computed."""
    engine = engine_of(folder, ranks)
    transformer = engine.pipeline.transformer
    blocks = transformer.transformer_blocks
    transformer.graphs = BlockGraphs(blocks, blocks[0].tokens, lambda compute: compute)
    return latents_of(engine, works)


def render_deaf(ranks: Ranks, folder: Path, works: list[Work]) -> list[Latents]:
    """As `render`, but no rank gets the others' keys and values."""
    heads = Shared.heads

    def of_own_tokens(shared: Shared, started: Tensor) -> Tensor:
        whole, size = heads(shared, started), -(-shared.total // shared.count)
        own = slice(shared.rank * size, (shared.rank + 1) * size)
        kept = torch.zeros_like(whole)
        kept[:, own] = whole[:, own]
        return kept

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Shared, "heads", of_own_tokens)
        return render(ranks, folder, works)


def render_compiled(ranks: Ranks, folder: Path, works: list[Work]) -> tuple[list[Latents], int, int]:
    """As `render`, with the number of graphs and of breaks in them."""
    torch._dynamo.reset()
    counters.clear()
    engine = engine_of(folder, ranks, compiler="eager")
    engine._compiled = False  # no other shapes than those of the works
    latents = latents_of(engine, works)
    return latents, counters["stats"]["unique_graphs"], len(counters["graph_break"])


def film_of(engine: Engine) -> list[Work]:
    """A first segment with an image at its beginning and one within, its continuation, that with a pinned end."""
    images = (PlacedImage(9, picture()),)
    beginning = request_of(image=picture(), images=images)
    state = engine.run(beginning).state
    timing = next_timing(FIRST)
    continued = engine.run(request_of(timing), state)
    end = PinnedEnd(continued.video_latents, continued.audio_latents, continued.decoding, audio_count=2)
    return [(beginning, None), (request_of(timing), state), (request_of(timing, end=end), state)]


def error(found: list[Latents], right: list[Latents]) -> float:
    """The largest relative error."""
    assert len(found) == len(right)
    pairs = [pair for one, two in zip(found, right, strict=True) for pair in zip(one, two, strict=True)]
    return max(float((one - two).norm() / two.norm()) for one, two in pairs)


@pytest.mark.parametrize(("name", "counts"), [("tiny-2.0", [2]), ("tiny", [2, 4]), ("tiny-2.5", [4])])
def test_ranks_render_films_and_guided_segments_as_one_process_does(
    ranks: RankProcesses, models: dict[str, Path], name: str, counts: list[int]
) -> None:
    # Given
    alone = engine_of(models[name])
    works = film_of(alone) + [(request_of(sampling=sampling), None) for sampling in CALLS.values()]
    right = latents_of(alone, works)
    for count in counts:
        # When
        found = ranks.run(count, render, models[name], works)
        # Then
        assert error(found[0], right) < TOLERANCE
        assert all(error(other, found[0]) == 0 for other in found)
    # and through graphs, with a pinned end and with guidance
    assert error(ranks.run(count, render_through_graphs, models[name], works[2:4])[0], found[0][2:4]) == 0


def test_two_stages_and_compiled_blocks_render_as_one_process_does(
    ranks: RankProcesses, models: dict[str, Path]
) -> None:
    # Given
    alone = engine_of(models["tiny"])
    works: list[Work] = [(replace(request_of(), width=128, height=64, sampling=Sampling(stages=2)), None)]
    # When
    found, graphs, breaks = ranks.run(2, render_compiled, models["tiny"], works)[0]
    # Then one graph of a block per stage has all exchanges; the third is the picture decoder's
    assert error(found, latents_of(alone, works)) < TOLERANCE
    assert (graphs, breaks) == (3, 0)


def test_without_what_other_ranks_send_the_picture_is_another(ranks: RankProcesses, models: dict[str, Path]) -> None:
    works: list[Work] = [(request_of(), None)]
    found = ranks.run(2, render_deaf, models["tiny"], works)[0]
    assert error(found, latents_of(engine_of(models["tiny"]), works)) > 1000 * TOLERANCE
