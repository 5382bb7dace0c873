"""Nothing is compiled between the segments of a job. A backend compiles here that is quick to do so."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from ltx2.engine import Engine
from ltx2.request import SegmentRequest
from ltx2.sampling import Sampling
from ltx2.timeline import SegmentShape, first_timing, next_timing

FIRST = first_timing(SegmentShape(17, Fraction(24)))
PICTURES = 1  # the decoder's shape is that of both segments
REQUEST = SegmentRequest("a boat", 3, 128, 64, FIRST)


@pytest.fixture
def compiled(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Engine:
    """An engine on the CPU that is compiled."""
    monkeypatch.setenv("LONGTAKE_HOME", str(tmp_path))
    torch._dynamo.reset()
    counters.clear()
    return Engine.load(str(models["tiny"]), device="cpu", compiler="eager")


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


def test_a_job_of_any_length_compiles_two_shapes_before_its_first_step(compiled: Engine) -> None:
    # Given the first segment, seen after its first step
    seen: list[int] = []
    output = compiled.run(REQUEST, on_step=lambda step, steps: seen.append(graphs()))
    # When continuations and a cut follow, with other prompts and seeds
    timing = FIRST
    for index in range(1, 4):
        timing = next_timing(timing, cut=index == 2)
        request = dataclasses.replace(REQUEST, timing=timing, prompt=f"gull {index}", seed=index)
        output = compiled.run(request, output.state)
    # Then
    assert seen[0] == graphs() == 2 + PICTURES
    # And another size brings two of its own, each stage of it
    wide = dataclasses.replace(REQUEST, width=192, sampling=Sampling(stages=2))
    compiled.run(wide)
    assert graphs() == 2 + 4 + 2 * PICTURES


def test_warming_up_changes_nothing(compiled: Engine, engines: dict[str, Engine]) -> None:
    # Given the same blocks, not compiled and not warmed up
    compiled.warm_up(REQUEST)
    assert graphs() == 2 + PICTURES
    # When
    output, right = compiled.run(REQUEST), engines["tiny"].run(REQUEST)
    # Then
    off = (output.video_latents - right.video_latents).norm() / right.video_latents.norm()
    assert float(off) < 1e-5
    assert np.abs(output.frames.astype(int) - right.frames).max() <= 1
