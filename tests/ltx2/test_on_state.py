"""The state and latents that an engine passes on before it is done."""

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
    """Keeps copies of the state and latents at the time of the call."""

    def __call__(self, state: LTX2ContinuationState, video: torch.Tensor, audio: torch.Tensor) -> None:
        assert state.video_frames is not None
        self.tail = np.stack(state.video_frames)
        self.video, self.audio = video.clone(), audio.clone()

    def matches(self, output: SegmentOutput) -> bool:
        """Whether the copies equal the finished output."""
        tail = output.frames[-len(self.tail) :]
        latents = torch.equal(self.video, output.video_latents) and torch.equal(self.audio, output.audio_latents)
        return latents and np.array_equal(self.tail, tail)


def test_state_and_latents_are_complete_when_they_are_passed_on(engine: Engine) -> None:
    listener = Listener()
    assert listener.matches(engine.run(REQUEST, on_state=listener))


@pytest.mark.gpu
@pytest.mark.filterwarnings("default")  # warnings of the compiler
def test_on_cuda_state_and_latents_are_complete_before_the_sound_is_decoded() -> None:
    # Given
    listener, engine = Listener(), Engine.load("tiny", device="cuda")
    # When / Then
    for _ in range(3):
        assert listener.matches(engine.run(REQUEST, on_state=listener))


def test_an_error_of_the_callback_is_raised_and_affects_no_other_segment(engine: Engine) -> None:
    # Given
    expected = engine.run(REQUEST)

    def fail(*_: object) -> None:
        raise OSError("disk full")

    # When
    with pytest.raises(OSError, match="disk full"):
        engine.run(REQUEST, on_state=fail)
    # Then
    after = engine.run(REQUEST)
    assert np.array_equal(after.frames, expected.frames)
    assert np.array_equal(after.sound, expected.sound)
