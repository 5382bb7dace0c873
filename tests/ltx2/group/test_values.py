"""Arguments of engine calls reach other processes unchanged, without code."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from ltx2.checkpoints.loras.lora import Lora
from ltx2.group.values import pack, unpack
from ltx2.request import Decoding, PinnedEnd, PlacedImage, SegmentRequest, VideoAfter
from ltx2.sampling import Decoder, Sampling, Scales, Shift
from ltx2.state.continuation import LTX2ContinuationState
from ltx2.timeline import SegmentShape, first_timing, next_timing


def assert_same(found: Any, sent: Any) -> None:
    assert type(found) is type(sent)
    if isinstance(sent, torch.Tensor):
        assert found.dtype == sent.dtype
        assert torch.equal(found, sent)
    elif isinstance(sent, np.ndarray):
        np.testing.assert_array_equal(found, sent, strict=True)
    elif is_dataclass(sent):
        for field in fields(sent):
            assert_same(getattr(found, field.name), getattr(sent, field.name))
    elif isinstance(sent, list | tuple):
        assert len(found) == len(sent)
        for one, other in zip(found, sent, strict=True):
            assert_same(one, other)
    else:
        assert found == sent


def test_a_call_arrives_as_it_was_sent() -> None:
    # Given a request with all that a request can have, and a state
    timing = next_timing(first_timing(SegmentShape(frames=33, fps=Fraction(30000, 1001), overlap=9)))
    noise = torch.randn(1, 4, 5, 1, 2)
    sound = torch.randn(1, 8, timing.audio_latents, 16).to(torch.bfloat16)
    end = PinnedEnd(noise[:, :, :, :, :], sound, Decoding(Decoder.DIFFUSION, 2**62), audio_count=3)
    picture = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)[:, ::-1]
    sampling = Sampling(
        stages=1, sigmas=(1.0, 0.3), shift=Shift.TOKENS, guidance=Scales(3.0, 7.0), negative_prompt="é\0\ud7ff", steps=2
    )
    request = SegmentRequest(
        "a 港", 2**63 - 1, 64, 32, timing, sampling, end=end, images=(PlacedImage(12, picture),), sound=sound.float()
    )
    state = LTX2ContinuationState(3, [picture.copy()], audio_latents=sound, metadata={"tuple": "x", "big": 2**70})
    after = replace(request, end=VideoAfter(np.stack([picture] * 9), sound[:, :, :9].float()), images=())
    given = (
        "run",
        (request, after, state, None),
        {"next_prompt": "b", "loras": (Lora("a/b", 0.1),), "lead": 0.1 + 0.2},
    )
    # When
    found = unpack(pack(given))
    # Then
    assert_same(found, given)
    found[1][2].video_frames[0][:] = 0  # memory of its own, writable


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", print])
def test_anything_else_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="cannot be sent to the other ranks"):
        pack([value])
