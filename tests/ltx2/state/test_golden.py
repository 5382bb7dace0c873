"""States written by another implementation of the format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ltx2 import ContinuationState, LTX2ContinuationState

FOLDER = Path(__file__).parents[2] / "fixtures" / "ltx2_v1"
NAMES = ["inline_f32", "inline_bf16", "video_only", "audio_only", "blobs", "defaults_only"]
WITH_VIDEO = {"inline_f32", "inline_bf16", "video_only", "blobs"}
WITH_F32, WITH_BF16 = {"inline_f32", "audio_only"}, {"inline_bf16", "blobs"}
ARRAYS = {"video", "audio"}


class FolderStore:
    """The blobs of the golden states, whose ids are not hashes."""

    def put(self, data: bytes, *, mime: str = "") -> str:
        raise AssertionError("put was called")

    def get(self, blob_id: str) -> bytes:
        return (FOLDER / "blobs" / blob_id).read_bytes()

    def drop(self, blob_id: str) -> None:
        raise AssertionError("drop was called")

    def __contains__(self, blob_id: object) -> bool:
        return (FOLDER / "blobs" / str(blob_id)).exists()


def golden(name: str) -> ContinuationState:
    return ContinuationState(**json.loads((FOLDER / f"{name}.json").read_text()))


def decoded(state: ContinuationState) -> LTX2ContinuationState:
    return LTX2ContinuationState.from_continuation_state(state, blob_store=FolderStore())


def scalars(payload: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in payload.items() if name not in ARRAYS}


def check_arrays(name: str, state: LTX2ContinuationState) -> None:
    if name in WITH_VIDEO:
        assert state.video_frames is not None
        assert np.array_equal(state.video_frames, np.load(FOLDER / "frames.npy"))
    else:
        assert state.video_frames is None
    if name in WITH_F32:
        assert state.audio_latents is not None
        assert state.audio_latents.dtype == torch.float32
        assert np.array_equal(state.audio_latents.numpy(), np.load(FOLDER / "audio_f32.npy"))
    elif name in WITH_BF16:
        assert state.audio_latents is not None
        assert state.audio_latents.dtype == torch.bfloat16
        bits = state.audio_latents.view(torch.int16).numpy().view(np.uint16)
        assert np.array_equal(bits, np.load(FOLDER / "audio_bf16_bits.npy"))
    else:
        assert state.audio_latents is None
    assert (state.video_frames_blob_id, state.audio_latents_blob_id) == (None, None)


def test_every_golden_file_is_tested() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_golden_state_decodes_to_its_arrays(name: str) -> None:
    check_arrays(name, decoded(golden(name)))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "defaults_only"])
def test_a_golden_state_decodes_to_its_scalars(name: str) -> None:
    state = decoded(golden(name))
    assert state.segment_index == 3
    assert state.video_conditioning_frame_idx == 0
    assert state.video_conditioning_strength == 0.75
    assert state.audio_conditioning_num_frames == 17
    assert state.audio_conditioning_strength == 0.25
    assert state.video_position_offset_sec == 0.125
    assert state.metadata == {"note": "golden", "nested": {"list": [1, 2.5, None, True]}}
    assert state.audio_sample_rate == 24000


def test_the_empty_golden_state_decodes_to_the_defaults() -> None:
    assert decoded(golden("defaults_only")) == LTX2ContinuationState()


@pytest.mark.parametrize("name", NAMES)
def test_a_golden_state_survives_encoding_and_decoding(name: str) -> None:
    # Given a golden state that was decoded
    first = decoded(golden(name))
    # When it is encoded inline and decoded again
    payload = json.loads(json.dumps(first.to_continuation_state().payload, allow_nan=False))
    second = decoded(ContinuationState("ltx2.v1", payload))
    # Then its arrays and scalars are still those of the golden state
    check_arrays(name, second)
    assert scalars(second.to_continuation_state().payload) == scalars(payload)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in {"blobs", "defaults_only"}])
def test_our_encoding_has_the_form_of_the_golden_state(name: str) -> None:
    theirs, ours = golden(name), decoded(golden(name)).to_continuation_state()
    # Then kind, keys and scalars are equal, and the arrays have the same form
    assert ours.kind == theirs.kind
    assert ours.payload.keys() == theirs.payload.keys()
    assert scalars(ours.payload) == scalars(theirs.payload)
    for part in ARRAYS & theirs.payload.keys():
        assert ours.payload[part].keys() == theirs.payload[part].keys()


def test_blob_ids_pass_through_without_a_store() -> None:
    # Given
    theirs = golden("blobs")
    # When
    ours = LTX2ContinuationState.from_continuation_state(theirs).to_continuation_state()
    # Then
    assert scalars(ours.payload) == scalars(theirs.payload)
    assert ours.payload["video"] == {"blob_id": theirs.payload["video"]["blob_id"]}
    assert ours.payload["audio"] == theirs.payload["audio"]
