"""What an engine tells before it is done."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ltx2.engine import Engine
from ltx2.segment import SegmentOutput, SegmentRequest
from ltx2.timeline import SegmentShape, exact, first_timing

REQUEST = SegmentRequest("a boat", 3, 96, 64, first_timing(SegmentShape(17, exact(24))))


def test_the_state_and_the_latents_are_those_that_come_out_in_the_end(engine: Engine) -> None:
    # Given
    told = []
    # When
    output = engine.run(REQUEST, on_state=lambda *everything: told.append(everything))
    # Then
    [(state, video_latents, audio_latents)] = told
    assert state is output.state
    assert torch.equal(video_latents, output.video_latents)
    assert torch.equal(audio_latents, output.audio_latents)


def test_who_is_told_may_fail_and_harms_no_other_segment(engine: Engine) -> None:
    # Given
    def fail(*_: object) -> None:
        raise OSError("nowhere to put it")

    # When
    with pytest.raises(OSError, match="nowhere to put it"):
        engine.run(REQUEST, on_state=fail)
    # Then
    assert same(engine.run(REQUEST), engine.run(REQUEST, on_state=lambda *_: None))


def same(one: SegmentOutput, other: SegmentOutput) -> bool:
    return np.array_equal(one.frames, other.frames) and np.array_equal(one.sound, other.sound)
