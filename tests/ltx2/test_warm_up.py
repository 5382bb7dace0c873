"""Nothing is compiled between the segments of a job. The blocks are compiled by a backend that is quick to do so."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from ltx2.engine import Engine
from ltx2.sampling import Sampling
from ltx2.segment import SegmentRequest
from ltx2.timeline import SegmentShape, first_timing, next_timing

FIRST = first_timing(SegmentShape(17, Fraction(24)))
REQUEST = SegmentRequest("a boat", 3, 128, 64, FIRST)


@pytest.fixture
def compiled(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Engine:
    """An engine on the CPU whose blocks are compiled."""
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
    assert seen[0] == graphs() == 2
    # And another size brings two of its own, each stage of it
    wide = dataclasses.replace(REQUEST, width=192, sampling=Sampling(stages=2))
    compiled.run(wide)
    assert graphs() == 2 + 4


def test_warming_up_changes_nothing(compiled: Engine, engines: dict[str, Engine]) -> None:
    # Given the same blocks, not compiled and not warmed up
    compiled.warm_up(REQUEST)
    assert graphs() == 2
    # When / Then
    right = engines["tiny"].run(REQUEST).video_latents
    assert float((compiled.run(REQUEST).video_latents - right).norm() / right.norm()) < 1e-5
