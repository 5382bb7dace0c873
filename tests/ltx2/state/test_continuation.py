"""Encoding the typed state into its envelope, and decoding it."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import uuid
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import ltx2
from blobstore import BlobNotFoundError, InMemoryBlobStore, blob_id_of
from ltx2 import ContinuationState, LTX2ContinuationState
from ltx2.errors import ContinuationError
from ltx2.state.arrays import decode_frames, decode_tensor, encode_frames, encode_tensor, pack_frames, unpack_frames

FRAMES = [np.full((8, 12, 3), 20 * i, np.uint8) for i in range(3)]
LATENTS = torch.arange(8 * 5 * 16).reshape(1, 8, 5, 16).bfloat16()


class ForeignStore(dict[str, bytes]):
    """A third-party store whose ids are not hashes."""

    def put(self, data: bytes, *, mime: str = "") -> str:
        blob_id = str(uuid.UUID(int=len(self)))
        self[blob_id] = bytes(data)
        self.mimes = [*getattr(self, "mimes", []), mime]
        return blob_id

    def get(self, blob_id: str) -> bytes:  # type: ignore[override]
        return self[blob_id]

    def drop(self, blob_id: str) -> None:
        self.pop(blob_id, None)


def state(**fields: Any) -> LTX2ContinuationState:
    return LTX2ContinuationState(video_frames=FRAMES, audio_latents=LATENTS, **fields)


def encoded(what: LTX2ContinuationState, **options: Any) -> dict[str, Any]:
    return what.to_continuation_state(**options).payload


def decoded(payload: Any, **options: Any) -> LTX2ContinuationState:
    return LTX2ContinuationState.from_continuation_state(ContinuationState("ltx2.v1", payload), **options)


def assert_frames(pngs: list[bytes]) -> None:
    """Check that `pngs` decode to FRAMES; their bytes depend on the compressor."""
    assert np.array_equal(decode_frames(pngs), FRAMES)


def assert_same(one: LTX2ContinuationState, other: LTX2ContinuationState) -> None:
    for field in dataclasses.fields(LTX2ContinuationState):
        mine, theirs = getattr(one, field.name), getattr(other, field.name)
        if isinstance(mine, Tensor):
            assert mine.dtype == theirs.dtype
            assert torch.equal(mine, theirs)
        elif field.name == "video_frames" and mine is not None:
            assert np.array_equal(mine, theirs)
        else:
            assert mine == theirs


def test_the_public_names() -> None:
    assert ltx2.LTX2_CONTINUATION_KIND == "ltx2.v1"
    assert ltx2.LTX2_CONTINUATION_SCHEMA_VERSION == 1
    assert ltx2.DEFAULT_INLINE_THRESHOLD_BYTES == 2 * 1024 * 1024
    assert all(hasattr(ltx2, name) for name in ltx2.__all__)


def test_the_fields_and_their_defaults() -> None:
    assert [(field.name, getattr(LTX2ContinuationState(), field.name)) for field in dataclasses.fields(state())] == [
        ("segment_index", 0),
        ("video_frames", None),
        ("video_frames_blob_id", None),
        ("video_conditioning_frame_idx", 0),
        ("video_conditioning_strength", 1.0),
        ("audio_latents", None),
        ("audio_latents_blob_id", None),
        ("audio_sample_rate", None),
        ("audio_conditioning_num_frames", 0),
        ("audio_conditioning_strength", 1.0),
        ("video_position_offset_sec", 0.0),
        ("metadata", {}),
    ]


def test_a_default_state_encodes_every_scalar_and_nothing_else() -> None:
    assert encoded(LTX2ContinuationState()) == {
        "schema_version": 1,
        "segment_index": 0,
        "video_conditioning_frame_idx": 0,
        "video_conditioning_strength": 1.0,
        "audio_conditioning_num_frames": 0,
        "audio_conditioning_strength": 1.0,
        "video_position_offset_sec": 0.0,
        "metadata": {},
    }


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"video": None, "audio": None, "metadata": None, "audio_sample_rate": None},
        {"video": {"frames_b64": []}},
        {"unknown": object(), 7: "seven", "video_frames": "not a key of a payload"},
        {"schema_version": 1},
    ],
)
def test_absent_and_unknown_keys_give_the_defaults(payload: dict[Any, Any]) -> None:
    assert decoded(payload) == LTX2ContinuationState()


def test_an_empty_list_of_frames_is_left_out() -> None:
    assert "video" not in encoded(LTX2ContinuationState(video_frames=[]))


STATES = st.builds(
    state,
    segment_index=st.integers(0, 2**63 - 1),
    video_conditioning_frame_idx=st.integers(0, 100),
    video_conditioning_strength=st.floats(0, 1),
    audio_sample_rate=st.none() | st.integers(1, 192_000),
    audio_conditioning_num_frames=st.integers(0, 200),
    audio_conditioning_strength=st.floats(0, 1),
    video_position_offset_sec=st.floats(allow_nan=False, allow_infinity=False),
    metadata=st.dictionaries(
        st.text(),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=5,
        ),
        max_size=4,
    ),
)


@given(STATES, st.sampled_from([0, 2**30]))
def test_a_state_survives_strict_json(what: LTX2ContinuationState, threshold: int) -> None:
    # When it is encoded, inline or through a store, written as JSON and parsed
    store = InMemoryBlobStore()
    payload = encoded(what, blob_store=store, inline_threshold_bytes=threshold)
    parsed = json.loads(json.dumps(payload, allow_nan=False))
    # Then it is unchanged
    assert parsed == payload
    assert_same(decoded(parsed, blob_store=store), what)


def test_inline_arrays_have_the_documented_form() -> None:
    payload = encoded(state(audio_sample_rate=24000))
    assert payload["audio_sample_rate"] == 24000
    assert payload["video"].keys() == {"frames_b64"}
    assert_frames([base64.b64decode(png, validate=True) for png in payload["video"]["frames_b64"]])
    assert payload["audio"].keys() == {"safetensors_b64"}
    assert torch.equal(decode_tensor(base64.b64decode(payload["audio"]["safetensors_b64"])), LATENTS)


def test_blobs_have_the_documented_form() -> None:
    # Given a third-party store, and a threshold that keeps nothing inline
    store = ForeignStore()
    payload = encoded(state(), blob_store=store, inline_threshold_bytes=0)
    # Then the payload holds the store's ids, and the store holds the documented bytes and types
    first, second = store
    assert payload["video"] == {"blob_id": first, "frame_count": 3}
    assert payload["audio"] == {"blob_id": second}
    assert_frames(unpack_frames(store[first]))
    assert store[second] == encode_tensor(LATENTS)
    assert store.mimes == ["application/x-fastvideo-frames+png", "application/x-fastvideo-tensor+safetensors"]
    # And decoding reads them from the store
    back = decoded(payload, blob_store=store)
    assert_same(back, state())
    assert (back.video_frames_blob_id, back.audio_latents_blob_id) == (None, None)


def test_our_store_names_blobs_by_their_hash() -> None:
    store = InMemoryBlobStore()
    payload = encoded(state(), blob_store=store, inline_threshold_bytes=0)
    video = store.get(payload["video"]["blob_id"])
    assert payload["video"]["blob_id"] == blob_id_of(video)
    assert_frames(unpack_frames(video))
    assert payload["audio"]["blob_id"] == blob_id_of(encode_tensor(LATENTS))


def test_only_arrays_larger_than_the_threshold_become_blobs() -> None:
    video, audio = sum(map(len, encode_frames(FRAMES))), len(encode_tensor(LATENTS))
    for threshold, video_form, audio_form in [
        (video, "frames_b64", "blob_id"),
        (video - 1, "blob_id", "blob_id"),
        (audio, "frames_b64", "safetensors_b64"),
        (audio - 1, "frames_b64", "blob_id"),
    ]:
        payload = encoded(state(), blob_store=ForeignStore(), inline_threshold_bytes=threshold)
        assert (video_form in payload["video"], audio_form in payload["audio"]) == (True, True)


def test_without_a_store_everything_is_inline() -> None:
    payload = encoded(state(), inline_threshold_bytes=0)
    assert (payload["video"].keys(), payload["audio"].keys()) == ({"frames_b64"}, {"safetensors_b64"})


def test_a_service_without_the_store_passes_blob_ids_on() -> None:
    # Given a state whose arrays are in a store that the service cannot read
    payload = encoded(state(segment_index=3), blob_store=ForeignStore(), inline_threshold_bytes=0)
    middle = decoded(payload)
    assert (middle.video_frames, middle.audio_latents) == (None, None)
    # When it encodes the state again with another store
    other = ForeignStore()
    again = encoded(middle, blob_store=other, inline_threshold_bytes=0)
    # Then the ids are the same, the frame count is left out, and nothing is stored
    assert again["video"] == {"blob_id": payload["video"]["blob_id"]}
    assert again["audio"] == payload["audio"]
    assert other == {}


def test_a_blob_id_takes_precedence_over_the_array() -> None:
    # Given
    store = ForeignStore()
    what = state(video_frames_blob_id="video elsewhere", audio_latents_blob_id="audio elsewhere")
    # When
    payload = encoded(what, blob_store=store, inline_threshold_bytes=0)
    # Then
    assert payload["video"] == {"blob_id": "video elsewhere"}
    assert payload["audio"] == {"blob_id": "audio elsewhere"}
    assert store == {}


@pytest.mark.parametrize("count", [{}, {"frame_count": None}, {"frame_count": 3}])
def test_the_frame_count_is_optional(count: dict[str, Any]) -> None:
    store = ForeignStore(frames=pack_frames(encode_frames(FRAMES)))
    assert np.array_equal(
        decoded({"video": {"blob_id": "frames"} | count}, blob_store=store).video_frames or [], FRAMES
    )


def test_errors_of_the_store_pass_through() -> None:
    payload = encoded(state(), blob_store=ForeignStore(), inline_threshold_bytes=0)
    with pytest.raises(BlobNotFoundError):
        decoded(payload, blob_store=InMemoryBlobStore())


def test_metadata_is_copied_both_ways() -> None:
    # Given metadata that is encoded and decoded
    mine = {"nested": {"list": [1]}}
    payload = encoded(LTX2ContinuationState(metadata=mine))
    back = decoded(payload)
    # When the original and the payload are changed
    mine["nested"]["list"].append(2)
    payload["metadata"]["nested"]["list"].append(3)
    # Then each copy has only its own change
    assert back.metadata == {"nested": {"list": [1]}}
    assert payload["metadata"] == {"nested": {"list": [1, 3]}}


def circular() -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    metadata["self"] = metadata
    return metadata


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("segment_index", -1),
        ("segment_index", 2**63),
        ("segment_index", True),
        ("segment_index", 1.0),
        ("segment_index", None),
        ("segment_index", np.bool_(True)),
        ("segment_index", np.zeros(2, np.int64)),
        ("video_position_offset_sec", np.bool_(False)),
        ("video_position_offset_sec", np.float32("nan")),
        ("video_position_offset_sec", np.zeros(2)),
        ("video_conditioning_frame_idx", -1),
        ("video_conditioning_strength", 1.01),
        ("video_conditioning_strength", -0.01),
        ("video_conditioning_strength", math.nan),
        ("video_conditioning_strength", "1"),
        ("audio_conditioning_num_frames", -1),
        ("audio_conditioning_strength", 2),
        ("audio_sample_rate", 0),
        ("audio_sample_rate", -24000),
        ("audio_sample_rate", 24000.0),
        ("video_position_offset_sec", math.inf),
        ("video_position_offset_sec", -math.inf),
        ("video_position_offset_sec", math.nan),
        ("video_position_offset_sec", 10**400),
        ("metadata", [1]),
        ("metadata", {"x": math.nan}),
        ("metadata", {"x": object()}),
        ("metadata", {"x": b"bytes"}),
        ("metadata", {"x": (1, 2)}),
        ("metadata", {1: "one"}),
        ("metadata", {"x": 10**5000}),
        ("metadata", circular()),
        ("video_frames_blob_id", ""),
        ("video_frames_blob_id", 7),
        ("audio_latents_blob_id", b"bytes"),
        ("video_frames", [np.zeros((8, 12, 3), np.float32)]),
        ("audio_latents", torch.zeros(8, 5, 16)),
    ],
)
def test_an_invalid_field_is_not_encoded(field: str, value: Any) -> None:
    # Given a state with one invalid field
    store = ForeignStore()
    what = dataclasses.replace(state(), **{field: value})
    # When / Then the error names the field, and nothing is stored
    with pytest.raises(ContinuationError, match=f"^{field}"):
        what.to_continuation_state(blob_store=store, inline_threshold_bytes=0)
    assert store == {}


@pytest.mark.parametrize(
    ("field", "value"),
    [("video_frames", ["a path"]), ("video_frames", 3), ("audio_latents", np.zeros((1, 8, 5, 16), np.float32))],
)
def test_an_array_of_the_wrong_type_is_a_type_error(field: str, value: Any) -> None:
    # Given
    store = ForeignStore()
    what = dataclasses.replace(state(), **{field: value})
    # When / Then the error names the field, and nothing is stored
    with pytest.raises(TypeError, match=f"^{field}"):
        what.to_continuation_state(blob_store=store, inline_threshold_bytes=0)
    assert store == {}


def test_numbers_of_numpy_and_torch_become_plain_ones() -> None:
    # Given
    numbers = {"n": np.int64(5), "x": [np.float32(0.5)]}
    given = dataclasses.replace(
        state(),
        segment_index=np.int64(5),
        audio_sample_rate=np.uint16(24000),
        audio_conditioning_strength=np.float32(0.5),
        video_position_offset_sec=torch.tensor(0.25),
        metadata=numbers,
    )
    # When
    payload = given.to_continuation_state().payload
    # Then
    assert json.loads(json.dumps(payload)) == payload
    assert (payload["segment_index"], payload["audio_sample_rate"]) == (5, 24000)
    assert (payload["audio_conditioning_strength"], payload["video_position_offset_sec"]) == (0.5, 0.25)
    assert payload["metadata"] == {"n": 5, "x": [0.5]}
    assert type(payload["segment_index"]) is int
