"""Hostile payloads: each is rejected with one error that names the field.

test_png and test_arrays test damaged PNGs, frame containers and safetensors files.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blobstore import BlobNotFoundError, InMemoryBlobStore
from ltx2 import ContinuationState, LTX2ContinuationState
from ltx2.errors import ContinuationError
from ltx2.state.arrays import encode_frames, encode_tensor, pack_frames

PNG, OTHER_PNG = encode_frames([np.zeros((8, 12, 3), np.uint8)])[0], encode_frames([np.zeros((16, 16, 3), np.uint8)])[0]
CONTAINER = pack_frames([PNG, PNG])
TENSOR = encode_tensor(torch.ones(1, 8, 2, 16))


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def frames(*pngs: bytes) -> dict[str, Any]:
    return {"video": {"frames_b64": [b64(png) for png in pngs]}}


def tensor(data: bytes) -> dict[str, Any]:
    return {"audio": {"safetensors_b64": b64(data)}}


def safetensors(header: str, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header.encode() + data


def deep(levels: int) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for _ in range(levels):
        nested = {"in": nested}
    return nested


HUGE_PNG = PNG[:16] + struct.pack(">II", 60_000, 60_000) + PNG[24:]

# payload, start of the error message
PAYLOADS: list[tuple[Any, str]] = [
    (None, "payload"),
    ([], "payload"),
    ("{}", "payload"),
    (7, "payload"),
    ({"schema_version": 2}, "Unsupported LTX-2 continuation schema_version=2; this build expects 1$"),
    ({"schema_version": 0}, "Unsupported LTX-2 continuation schema_version="),
    ({"schema_version": -1}, "Unsupported LTX-2 continuation schema_version="),
    ({"schema_version": "1"}, "Unsupported LTX-2 continuation schema_version="),
    ({"schema_version": 1.0}, "Unsupported LTX-2 continuation schema_version="),
    ({"schema_version": True}, "Unsupported LTX-2 continuation schema_version="),
    ({"schema_version": None}, "Unsupported LTX-2 continuation schema_version="),
    ({"schema_version": 10**5000}, "Unsupported LTX-2 continuation schema_version="),
    ({"schema_version": [1]}, "Unsupported LTX-2 continuation schema_version="),
    ({"segment_index": -1}, "segment_index"),
    ({"segment_index": 1.5}, "segment_index"),
    ({"segment_index": "1"}, "segment_index"),
    ({"segment_index": True}, "segment_index"),
    ({"segment_index": None}, "segment_index"),
    ({"segment_index": 2**63}, "segment_index"),
    ({"segment_index": 10**5000}, "segment_index"),
    ({"segment_index": math.inf}, "segment_index"),
    ({"video_conditioning_frame_idx": -1}, "video_conditioning_frame_idx"),
    ({"video_conditioning_frame_idx": []}, "video_conditioning_frame_idx"),
    ({"video_conditioning_strength": 1.0001}, "video_conditioning_strength"),
    ({"video_conditioning_strength": -0.0001}, "video_conditioning_strength"),
    ({"video_conditioning_strength": math.nan}, "video_conditioning_strength"),
    ({"video_conditioning_strength": True}, "video_conditioning_strength"),
    ({"video_conditioning_strength": "1.0"}, "video_conditioning_strength"),
    ({"video_conditioning_strength": 10**400}, "video_conditioning_strength"),
    ({"audio_conditioning_num_frames": -17}, "audio_conditioning_num_frames"),
    ({"audio_conditioning_num_frames": False}, "audio_conditioning_num_frames"),
    ({"audio_conditioning_num_frames": 17.0}, "audio_conditioning_num_frames"),
    ({"audio_conditioning_strength": 2}, "audio_conditioning_strength"),
    ({"audio_conditioning_strength": -math.inf}, "audio_conditioning_strength"),
    ({"audio_conditioning_strength": None}, "audio_conditioning_strength"),
    ({"audio_sample_rate": 0}, "audio_sample_rate"),
    ({"audio_sample_rate": -24000}, "audio_sample_rate"),
    ({"audio_sample_rate": 24000.5}, "audio_sample_rate"),
    ({"audio_sample_rate": True}, "audio_sample_rate"),
    ({"audio_sample_rate": "24000"}, "audio_sample_rate"),
    ({"video_position_offset_sec": math.nan}, "video_position_offset_sec"),
    ({"video_position_offset_sec": math.inf}, "video_position_offset_sec"),
    ({"video_position_offset_sec": -(10**400)}, "video_position_offset_sec"),
    ({"video_position_offset_sec": "0"}, "video_position_offset_sec"),
    ({"video_position_offset_sec": {}}, "video_position_offset_sec"),
    ({"metadata": []}, "metadata"),
    ({"metadata": "text"}, "metadata"),
    ({"metadata": 0}, "metadata"),
    ({"metadata": {"x": math.nan}}, "metadata"),
    ({"metadata": {"x": object()}}, "metadata"),
    ({"metadata": deep(100_000)}, "metadata"),
    ({"video": []}, "video"),
    ({"video": False}, "video"),
    ({"video": "frames"}, "video"),
    ({"video": {}}, "video"),
    ({"video": {"frames": []}}, "video"),
    ({"video": {"frames_b64": None}}, "video"),
    ({"video": {"frames_b64": [b64(PNG)], "blob_id": "frames"}}, "video"),
    ({"video": {"frames_b64": {}}}, r"video\.frames_b64"),
    ({"video": {"frames_b64": b64(PNG)}}, r"video\.frames_b64"),
    ({"video": {"frames_b64": [None]}}, r"video\.frames_b64\[0\]"),
    ({"video": {"frames_b64": [b64(PNG), 7]}}, r"video\.frames_b64\[1\]"),
    ({"video": {"frames_b64": [PNG]}}, r"video\.frames_b64\[0\]"),
    ({"video": {"frames_b64": [""]}}, r"video\.frames_b64\[0\]"),
    ({"video": {"frames_b64": [b64(PNG)[:-1]]}}, r"video\.frames_b64\[0\]"),
    ({"video": {"frames_b64": [b64(PNG) + "="]}}, r"video\.frames_b64\[0\]"),
    ({"video": {"frames_b64": ["====" + b64(PNG)]}}, r"video\.frames_b64\[0\]"),
    ({"video": {"frames_b64": [b64(PNG) + "\n"]}}, r"video\.frames_b64\[0\]"),
    ({"video": {"frames_b64": ["not base64!"]}}, r"video\.frames_b64\[0\]"),
    ({"video": {"frames_b64": ["\ud800"]}}, r"video\.frames_b64\[0\]"),
    (frames(b"GIF89a"), r"video\.frames_b64: frame 0: not a PNG"),
    (frames(PNG, PNG[:30]), r"video\.frames_b64: frame 1"),
    (frames(PNG, PNG[:-4]), r"video\.frames_b64: frame 1"),
    (frames(PNG, OTHER_PNG), r"video\.frames_b64: frame 1 is 16x16"),
    (frames(HUGE_PNG), r"video\.frames_b64: frame 0"),
    ({"video": {"blob_id": ""}}, r"video\.blob_id"),
    ({"video": {"blob_id": 7}}, r"video\.blob_id"),
    ({"video": {"blob_id": ["frames"]}}, r"video\.blob_id"),
    ({"video": {"blob_id": "frames", "frame_count": -1}}, r"video\.frame_count"),
    ({"video": {"blob_id": "frames", "frame_count": True}}, r"video\.frame_count"),
    ({"video": {"blob_id": "frames", "frame_count": 2.0}}, r"video\.frame_count"),
    ({"video": {"blob_id": "frames", "frame_count": 10**5000}}, r"video\.frame_count"),
    ({"audio": []}, "audio"),
    ({"audio": 0}, "audio"),
    ({"audio": {}}, "audio"),
    ({"audio": {"blob_id": None}}, "audio"),
    ({"audio": {"safetensors": b64(TENSOR)}}, "audio"),
    ({"audio": {"safetensors_b64": b64(TENSOR), "blob_id": "tensor"}}, "audio"),
    ({"audio": {"safetensors_b64": 7}}, r"audio\.safetensors_b64"),
    ({"audio": {"safetensors_b64": ""}}, r"audio\.safetensors_b64"),
    ({"audio": {"safetensors_b64": [b64(TENSOR)]}}, r"audio\.safetensors_b64"),
    ({"audio": {"safetensors_b64": "?"}}, r"audio\.safetensors_b64"),
    ({"audio": {"blob_id": ""}}, r"audio\.blob_id"),
    ({"audio": {"blob_id": {}}}, r"audio\.blob_id"),
    (tensor(TENSOR[:-1]), r"audio\.safetensors_b64"),
    (tensor(TENSOR + b"\0"), r"audio\.safetensors_b64"),
    (tensor(b"\xff" * 8 + b"{}"), r"audio\.safetensors_b64"),
    (tensor(safetensors("{}")), r"audio\.safetensors_b64"),
    (tensor(safetensors("[")), r"audio\.safetensors_b64"),
    (tensor(TENSOR.replace(b'"t"', b'"u"')), r"audio\.safetensors_b64"),
    (tensor(TENSOR.replace(b'"F32"', b'"I32"')), r"audio\.safetensors_b64"),
    (tensor(TENSOR.replace(b"[1,8,2,16]", b"[16,16]   ")), r"audio\.safetensors_b64"),
    (tensor(TENSOR.replace(b"[1,8,2,16]", b"[1,8,9,99]")), r"audio\.safetensors_b64"),
]

# bytes stored as "blob", payload that names this id, start of the error message
BLOBS: list[tuple[bytes, dict[str, Any], str]] = [
    (b"", {"video": {"blob_id": "blob"}}, r"video\.blob_id"),
    (PNG, {"video": {"blob_id": "blob"}}, r"video\.blob_id"),
    (TENSOR, {"video": {"blob_id": "blob"}}, r"video\.blob_id"),
    (CONTAINER[:-1], {"video": {"blob_id": "blob"}}, r"video\.blob_id: frame 1"),
    (CONTAINER + b"\0", {"video": {"blob_id": "blob"}}, r"video\.blob_id"),
    (b"\xff\xff\xff\xff" + CONTAINER[4:], {"video": {"blob_id": "blob"}}, r"video\.blob_id: 4294967295 frames"),
    (pack_frames([PNG, b"no PNG"]), {"video": {"blob_id": "blob"}}, r"video\.blob_id: frame 1"),
    (pack_frames([PNG, OTHER_PNG]), {"video": {"blob_id": "blob"}}, r"video\.blob_id: frame 1"),
    (pack_frames([HUGE_PNG]), {"video": {"blob_id": "blob"}}, r"video\.blob_id: frame 0"),
    (CONTAINER, {"video": {"blob_id": "blob", "frame_count": 3}}, r"video\.frame_count: 3 declared, .* 2 frames"),
    (CONTAINER, {"video": {"blob_id": "blob", "frame_count": 0}}, r"video\.frame_count"),
    (b"", {"audio": {"blob_id": "blob"}}, r"audio\.blob_id"),
    (CONTAINER, {"audio": {"blob_id": "blob"}}, r"audio\.blob_id"),
    (TENSOR[:-1], {"audio": {"blob_id": "blob"}}, r"audio\.blob_id"),
]


class OneBlobStore:
    """A store that returns the same bytes for every id."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def put(self, data: bytes, *, mime: str = "") -> str:
        return "blob"

    def get(self, blob_id: str) -> bytes:
        return self.data

    def drop(self, blob_id: str) -> None:
        pass

    def __contains__(self, blob_id: object) -> bool:
        return True


def decoded(payload: Any, store: Any = None) -> LTX2ContinuationState:
    return LTX2ContinuationState.from_continuation_state(ContinuationState("ltx2.v1", payload), blob_store=store)


def check_decoded_or_rejected(payload: Any, store: Any = None) -> None:
    """Decode `payload`; if it is accepted, its state must survive encoding and decoding."""
    try:
        state = decoded(payload, store)
    except (ContinuationError, BlobNotFoundError):
        return
    again = state.to_continuation_state().payload
    decoded(json.loads(json.dumps(again, allow_nan=False)))


def case_id(case: tuple[Any, ...]) -> str:
    return case[-1].replace("\\", "").split(":")[0]


@pytest.mark.parametrize(("payload", "beginning"), PAYLOADS, ids=map(case_id, PAYLOADS))
def test_a_hostile_payload_is_rejected_with_its_field(payload: Any, beginning: str) -> None:
    with pytest.raises(ContinuationError, match=rf"^{beginning}") as caught:
        decoded(payload)
    # And the message stays short, on one line
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("data", "payload", "beginning"), BLOBS, ids=map(case_id, BLOBS))
def test_a_hostile_blob_is_rejected_with_its_field(data: bytes, payload: dict[str, Any], beginning: str) -> None:
    with pytest.raises(ContinuationError, match=rf"^{beginning}"):
        decoded(payload, OneBlobStore(data))


@pytest.mark.parametrize("kind", ["ltx2.v2", "", None, 7, "x" * 100_000, ["ltx2.v1"]])
def test_another_kind_is_rejected(kind: Any) -> None:
    with pytest.raises(ContinuationError, match=r"^Expected ContinuationState\.kind='ltx2\.v1', got ") as caught:
        LTX2ContinuationState.from_continuation_state(ContinuationState(kind, {}))
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("state", [None, {}, "ltx2.v1", {"kind": "ltx2.v1", "payload": {}}])
def test_anything_but_an_envelope_is_rejected(state: Any) -> None:
    with pytest.raises(ContinuationError, match=r"^state"):
        LTX2ContinuationState.from_continuation_state(state)


def test_ids_unknown_to_the_store_are_missing_blobs() -> None:
    for blob_id in ["3f2c9d5a", "sha256:", "sha256:" + "0" * 64, "../../etc/passwd", "x" * 100_000]:
        with pytest.raises(BlobNotFoundError):
            decoded({"audio": {"blob_id": blob_id}}, InMemoryBlobStore())


KEYS = st.sampled_from(
    [
        "schema_version",
        "segment_index",
        "video_conditioning_frame_idx",
        "video_conditioning_strength",
        "audio_conditioning_num_frames",
        "audio_conditioning_strength",
        "video_position_offset_sec",
        "metadata",
        "audio_sample_rate",
        "video",
        "audio",
        "frames_b64",
        "safetensors_b64",
        "blob_id",
        "frame_count",
    ]
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([0, 1, 1.0, b64(PNG), b64(TENSOR), b64(CONTAINER)]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS | st.text(max_size=4), inner, max_size=6),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(JSON)
def test_any_json_is_a_state_or_rejected(payload: Any) -> None:
    check_decoded_or_rejected(payload)
    check_decoded_or_rejected(payload, InMemoryBlobStore())


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(["video", "audio", "metadata", "segment_index"], JSON)))
def test_any_value_of_a_known_key_is_a_state_or_rejected(payload: dict[str, Any]) -> None:
    check_decoded_or_rejected(payload)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["frames", "container", "tensor", "tensor blob"]), st.data())
def test_damaged_bytes_are_a_state_or_rejected(where: str, data: st.DataObject) -> None:
    # Given valid bytes of which some are replaced, inserted or removed
    damaged = bytearray({"frames": PNG, "container": CONTAINER}.get(where, TENSOR))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged)))
        damage = data.draw(st.binary(max_size=4))
        damaged[at : at + data.draw(st.sampled_from([len(damage), 0, 1, 10**6]))] = damage
    payload = {
        "frames": frames(bytes(damaged)),
        "container": {"video": {"blob_id": "blob"}},
        "tensor": tensor(bytes(damaged)),
        "tensor blob": {"audio": {"blob_id": "blob"}},
    }[where]
    # When / Then no other error is raised
    check_decoded_or_rejected(payload, OneBlobStore(bytes(damaged)))
