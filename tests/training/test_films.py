"""Rendering films from state to state, with and without faults."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from ltx2.engine import Engine
from ltx2.state.continuation import LTX2ContinuationState
from ltx2.timeline import SegmentShape, film_samples, plan
from tests.ltx2.quality.chain_faults import FAULTS, Job, without_fault
from training.films import Film, render
from training.world import FPS

JOB = Job(["a red circle moves up and right over a blue background, low hum"] * 2, seed=3)
OTHER = Job(["a white square moves left over a green background, high hum"] * 2, seed=4)


@pytest.fixture(scope="module")
def whole(engine: Engine) -> Film:
    return without_fault(engine, JOB, OTHER)


def test_a_film_has_the_frames_and_samples_of_its_timeline(whole: Film) -> None:
    assert whole.timings == plan(SegmentShape(25, Fraction(FPS)), [False, False])
    assert [piece.shape for piece in whole.pieces] == [(25, 128, 192, 3), (16, 128, 192, 3)]
    assert whole.sound.shape == (2, film_samples(41, Fraction(FPS), whole.rate))
    assert len(whole.continuity().seams) == 1


# of the others, tests/ltx2/quality/test_shipped_model.py shows that they change the model's films
@pytest.mark.parametrize("name", ["transition: cut", "frames reversed", "offset half a second too large"])
def test_a_fault_changes_the_film_after_its_first_join_only(engine: Engine, whole: Film, name: str) -> None:
    # When
    faulty = FAULTS[name](engine, JOB, OTHER)
    # Then
    assert np.array_equal(faulty.pieces[0], whole.pieces[0])
    assert not np.array_equal(faulty.pieces[1], whole.pieces[1])
    assert not np.array_equal(faulty.sound, whole.sound)


def test_the_pinned_sound_and_the_offset_of_a_state_are_used(engine: Engine) -> None:
    # Given
    def earlier(_: int, state: LTX2ContinuationState) -> LTX2ContinuationState:
        return replace(
            state,
            audio_conditioning_num_frames=state.audio_conditioning_num_frames - 5,
            video_position_offset_sec=state.video_position_offset_sec - 0.2,
        )

    # When
    one = render(engine, JOB.prompts, seed=JOB.seed, change=earlier)
    other = render(engine, JOB.prompts, seed=JOB.seed, shorter=5)
    # Then
    right = plan(SegmentShape(25, Fraction(FPS)), [False, False])[1]
    assert (one.timings[1].pinned, one.timings[1].offset) == (right.pinned - 5, right.offset - Fraction(1, 5))
    assert np.array_equal(one.pieces[1], other.pieces[1])
