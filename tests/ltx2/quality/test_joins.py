"""Figures of a join by which renderings are chosen: the better one has the smaller rank."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from ltx2.quality.joins import Join, join_of
from ltx2.timeline import SegmentShape, plan
from training.world import FPS, Shape, World

RATE = 16_000
SCENE = World((Shape("circle", "red", "up and right", "", 16, 44, 70, 90),), "blue", "low hum")
OTHER_TONE = World(SCENE.shapes, "blue", "high hum")
BEFORE, TIMING = plan(SegmentShape(25, Fraction(FPS)), [False, False])
FIRST = TIMING.first_frame - TIMING.skipped_frames


def joined(*, later: int = 0, brighter: int = 0, after: World = SCENE) -> Join:
    """A continuation that goes on `later` frames too late, or brighter, or with another tone."""
    frames: NDArray[np.uint8] = SCENE.frames((FIRST + later) / FPS, TIMING.shape.frames)
    frames = np.clip(frames.astype(np.int16) + brighter, 0, 255).astype(np.uint8)
    begin = TIMING.first_frame / FPS - float(TIMING.picture_start)
    count, at = (4 * TIMING.audio_latents - 3) * RATE // 100, round(TIMING.picture_start * RATE)
    sound = SCENE.samples(begin, count, RATE)
    sound[:, at:] = after.samples(begin, count, RATE)[:, at:]
    tail = SCENE.frames(FIRST / FPS, TIMING.skipped_frames)
    return join_of(list(tail), frames, sound, RATE, TIMING)


def test_a_continuous_join_is_within_bounds() -> None:
    found = joined()
    assert found.wrong == ()
    assert found.excess < 1


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"later": 12}, "jumps"),
        ({"brighter": 40}, "brightness"),
        ({"after": OTHER_TONE}, "pitch"),
    ],
    ids=["leap", "flash", "tone"],
)
def test_every_fault_is_found_and_ranks_behind(fault: dict[str, int], words: str) -> None:
    found = joined(**fault)  # type: ignore[arg-type]
    assert words in " ".join(found.wrong)
    assert found.excess > 1
    assert not math.isinf(found.excess)
    assert found.rank > joined().rank


def test_the_smaller_of_two_faults_ranks_before() -> None:
    assert joined(brighter=30).rank < joined(brighter=60).rank
