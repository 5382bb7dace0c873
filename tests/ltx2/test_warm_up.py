"""Nothing is compiled between the segments of a job. These tests use a fast backend."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from ltx2.engine import Engine
from ltx2.request import PinnedEnd, PlacedImage, SegmentOutput, SegmentRequest
from ltx2.sampling import Sampling
from ltx2.timeline import SegmentShape, first_timing, next_timing

FIRST = first_timing(SegmentShape(17, Fraction(24)))
DECODER = 1  # graphs of the video decoder, which gets the same shape in both segments
REQUEST = SegmentRequest("a boat", 3, 128, 64, FIRST)


@pytest.fixture
def compiled(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Engine:
    """A compiled engine on the CPU."""
    monkeypatch.setenv("LONGTAKE_HOME", str(tmp_path))
    torch._dynamo.reset()
    counters.clear()
    return Engine.load(str(models["tiny"]), device="cpu", compiler="eager")


def check_same(output: SegmentOutput, expected: SegmentOutput) -> None:
    error = (output.video_latents - expected.video_latents).norm() / expected.video_latents.norm()
    assert float(error) < 1e-5
    assert np.abs(output.frames.astype(int) - expected.frames).max() <= 1


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


def test_a_job_of_any_length_compiles_two_shapes_before_its_first_step(compiled: Engine) -> None:
    # Given the first segment, with the number of graphs after each step
    seen: list[int] = []
    output = compiled.run(REQUEST, on_step=lambda step, steps: seen.append(graphs()))
    # When continuations and a cut follow, with other prompts and seeds
    timing = FIRST
    for index in range(1, 4):
        timing = next_timing(timing, cut=index == 2)
        request = dataclasses.replace(REQUEST, timing=timing, prompt=f"gull {index}", seed=index)
        output = compiled.run(request, output.state)
    # Then
    assert seen[0] == graphs() == 2 + DECODER
    # And another size compiles two shapes for each of its stages
    wide = dataclasses.replace(REQUEST, width=192, sampling=Sampling(stages=2))
    compiled.run(wide)
    assert graphs() == 2 + 4 + 2 * DECODER


def test_a_compiled_and_warmed_up_engine_renders_the_same(compiled: Engine, engines: dict[str, Engine]) -> None:
    # Given
    compiled.warm_up(REQUEST)
    assert graphs() == 2 + DECODER
    # When
    output, expected = compiled.run(REQUEST), engines["tiny"].run(REQUEST)
    # Then
    check_same(output, expected)


def test_each_number_of_images_is_a_shape_of_its_own(compiled: Engine, engines: dict[str, Engine]) -> None:
    # Given shapes for segments with no image, and with one
    compiled.warm_up(REQUEST, images=(1,))
    assert graphs() == 4 + DECODER
    # When a first segment with two is rendered
    black = np.zeros((64, 128, 3), np.uint8)
    images = (PlacedImage(5, black), PlacedImage(8, 255 - black))
    seen: list[int] = []
    request = dataclasses.replace(REQUEST, images=images)
    old = compiled.run(request, on_step=lambda step, steps: seen.append(graphs()))
    # Then that shape is compiled before its first step, and a pinned end and given sound need no other
    assert set(seen) == {5 + DECODER}
    end = PinnedEnd(old.video_latents, old.audio_latents)
    request = dataclasses.replace(request, end=end, seed=9)
    output = compiled.run(request)
    assert graphs() == 5 + DECODER
    # And the fast blocks give what stock blocks give, for both
    check_same(output, engines["tiny"].run(request))
    request = dataclasses.replace(request, sound=torch.zeros_like(old.audio_latents))
    check_same(compiled.run(request), engines["tiny"].run(request))
