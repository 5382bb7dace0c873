"""What an engine tells before it is done."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ltx2.engine import Engine
from ltx2.request import SegmentOutput, SegmentRequest
from ltx2.state.continuation import LTX2ContinuationState
from ltx2.timeline import SegmentShape, exact, first_timing

REQUEST = SegmentRequest("a boat", 3, 96, 64, first_timing(SegmentShape(17, exact(24))))


class Listener:
    """Keeps copies of what it is told, as it is then."""

    def __call__(self, state: LTX2ContinuationState, video: torch.Tensor, audio: torch.Tensor) -> None:
        assert state.video_frames is not None
        self.tail = np.stack(state.video_frames)
        self.video, self.audio = video.clone(), audio.clone()

    def was_told(self, output: SegmentOutput) -> bool:
        """Whether that is what has come out."""
        tail = output.frames[-len(self.tail) :]
        latents = torch.equal(self.video, output.video_latents) and torch.equal(self.audio, output.audio_latents)
        return latents and np.array_equal(self.tail, tail)


def test_the_state_and_the_latents_are_whole_when_they_are_told(engine: Engine) -> None:
    listener = Listener()
    assert listener.was_told(engine.run(REQUEST, on_state=listener))


@pytest.mark.gpu
@pytest.mark.filterwarnings("default")  # the compiler's own
def test_on_cuda_too_although_the_sound_is_still_being_made() -> None:
    # Given
    listener, engine = Listener(), Engine.load("tiny", device="cuda")
    # When / Then
    for _ in range(3):
        assert listener.was_told(engine.run(REQUEST, on_state=listener))


def test_who_is_told_may_fail_and_harms_no_other_segment(engine: Engine) -> None:
    # Given
    right = engine.run(REQUEST)

    def fail(*_: object) -> None:
        raise OSError("nowhere to put it")

    # When
    with pytest.raises(OSError, match="nowhere to put it"):
        engine.run(REQUEST, on_state=fail)
    # Then
    after = engine.run(REQUEST)
    assert np.array_equal(after.frames, right.frames)
    assert np.array_equal(after.sound, right.sound)
