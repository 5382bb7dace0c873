"""Starting a job from a state: what a worker could not render is refused at submit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from blobstore import InMemoryBlobStore
from ltx2 import LTX2ContinuationState
from tasks.client.submissions.state_files import start_handoff
from tasks.errors import SpecError
from tasks.settings import Settings
from tasks.spec.loader import check_spec

SPEC = {"width": 64, "height": 32, "frames": 17, "segments": [{"prompt": "a"}] * 2}


def start(**changes: Any) -> Any:
    state = LTX2ContinuationState(
        segment_index=3,
        video_frames=[np.zeros((32, 64, 3), np.uint8)] * 9,
        audio_latents=torch.zeros(1, 8, 20, 16),
        audio_conditioning_num_frames=10,
        audio_conditioning_strength=0.0,
    )
    for name, value in changes.items():
        setattr(state, name, value)
    envelope = state.to_continuation_state()
    raw = {"kind": envelope.kind, "payload": envelope.payload}
    return start_handoff(raw, check_spec(SPEC), InMemoryBlobStore(), InMemoryBlobStore(), Settings())


def test_a_state_that_fits_is_a_start() -> None:
    assert start().index == -1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"audio_latents": torch.zeros(1, 8, 5, 16)}, r"audio_conditioning_num_frames is 10; .* only 1\.\.5"),
        ({"audio_latents": torch.zeros(1, 4, 20, 16)}, r"audio_latents is \[1, 4, 20, 16\]; .* only \[1, 8, T, 16\]"),
        ({"audio_latents": torch.zeros(1, 8, 20, 32)}, r"audio_latents is \[1, 8, 20, 32\]"),
        ({"audio_latents": torch.full((1, 8, 20, 16), torch.nan)}, "audio_latents is NaN or infinity"),
        ({"audio_latents": None}, "audio_conditioning_num_frames is 10; .* only 0 without audio_latents"),
        ({"audio_conditioning_strength": 0.5}, r"audio_conditioning_strength is 0\.5; .* only 0\.0"),
        ({"video_conditioning_strength": 0.5}, r"video_conditioning_strength is 0\.5; .* only 1\.0"),
        ({"video_conditioning_frame_idx": 1}, "video_conditioning_frame_idx is 1; .* only 0"),
        ({"metadata": {"audio_latents_space": "other"}}, "metadata.audio_latents_space is 'other'"),
        ({"audio_sample_rate": 16000}, "audio_sample_rate is 16000; .* this model's rate, "),
        ({"segment_index": 2**63 - 2}, "segment_index: .* leaves no index for the segments of this job"),
        ({"video_frames": [np.zeros((32, 32, 3), np.uint8)] * 9}, "its frames are 32x32, the spec says 64x32"),
    ],
)
def test_a_state_that_a_worker_could_not_render_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=f"^the state to continue cannot be used: .*{message}"):
        start(**changes)
