"""The wire form of states: one dict for messages and records, with large arrays as blob ids."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from blobstore import InMemoryBlobStore
from ltx2 import LTX2ContinuationState
from ltx2.errors import ContinuationError
from tasks.jobs import state_wire
from tasks.jobs.records import Handoff
from tasks.worker.state_cache import StateCache


def a_state(**changes: Any) -> LTX2ContinuationState:
    frames = [np.full((32, 64, 3), shade, np.uint8) for shade in range(9)]
    audio = torch.arange(8 * 26 * 16, dtype=torch.float32).reshape(1, 8, 26, 16)
    return LTX2ContinuationState(**{"video_frames": frames, "audio_latents": audio, "segment_index": 3, **changes})


@pytest.mark.parametrize("threshold", [0, 1024, 2**16])
def test_arrays_above_the_threshold_are_blobs(threshold: int) -> None:
    # Given
    blobs = InMemoryBlobStore()
    is_inline = threshold == 2**16
    # When
    envelope = state_wire.encode(a_state(), blobs, inline_threshold_bytes=threshold)
    # Then
    assert set(envelope["payload"]["video"]) == ({"frames_b64"} if is_inline else {"blob_id", "frame_count"})
    assert set(envelope["payload"]["audio"]) == ({"safetensors_b64"} if is_inline else {"blob_id"})
    assert len(state_wire.state_blobs(envelope)) == (0 if is_inline else 2)
    assert all(state_wire.is_whole(blob_id, blobs) for blob_id in state_wire.state_blobs(envelope))
    # and it decodes to the same state, also after JSON and msgpack
    for stored in (envelope, json.loads(json.dumps(envelope)), Handoff.unpack(Handoff(3, envelope).pack()).state):
        found = state_wire.decode(stored, blobs)
        assert found.video_frames is not None
        assert found.audio_latents is not None
        assert all((a == b).all() for a, b in zip(found.video_frames, a_state().video_frames or [], strict=True))
        assert torch.equal(found.audio_latents, a_state().audio_latents)


@pytest.mark.parametrize(("size", "moved"), [(900, False), (1100, True)])
def test_metadata_above_1_kb_is_a_blob(size: int, moved: bool) -> None:
    # Given
    blobs = InMemoryBlobStore()
    metadata = {"note": "x" * size, "nested": [1, None, {"a": 2.5}]}
    # When
    envelope = state_wire.encode(a_state(metadata=metadata), blobs, inline_threshold_bytes=1024)
    # Then
    assert (state_wire.METADATA_BLOB in envelope["payload"]["metadata"]) == moved
    assert len(state_wire.state_blobs(envelope)) == 2 + moved
    assert state_wire.decode(envelope, blobs).metadata == metadata


@pytest.mark.parametrize("value", [2**70, -(2**70), "\ud800", {"\udfff": [2**64]}, {"__type__": 1}])
def test_metadata_that_json_alone_can_carry_is_a_blob(value: object) -> None:
    # Given
    blobs = InMemoryBlobStore()
    # When
    envelope = state_wire.encode(LTX2ContinuationState(metadata={"n": value}), blobs, inline_threshold_bytes=1024)
    # Then a record and a message can have it, and it comes back
    stored = Handoff.unpack(Handoff(3, json.loads(json.dumps(envelope))).pack()).state
    assert set(stored["payload"]["metadata"]) == {state_wire.METADATA_BLOB}
    assert state_wire.decode(stored, blobs).metadata == {"n": value}


def test_a_state_without_arrays_has_no_blobs() -> None:
    blobs = InMemoryBlobStore()
    envelope = state_wire.encode(LTX2ContinuationState(), blobs, inline_threshold_bytes=0)
    assert state_wire.state_blobs(envelope) == []
    assert state_wire.decode(envelope, blobs) == LTX2ContinuationState()


def test_the_blobs_of_a_handoff_are_those_of_its_state_and_the_latents() -> None:
    blobs = InMemoryBlobStore()
    envelope = state_wire.encode(a_state(), blobs, inline_threshold_bytes=0)
    of_state = state_wire.state_blobs(envelope)
    assert state_wire.handoff_blobs(Handoff(3, envelope)) == of_state
    assert state_wire.handoff_blobs(Handoff(3, envelope, latents="sha256:l")) == [*of_state, "sha256:l"]


@pytest.mark.parametrize(
    "envelope",
    [
        {},
        {"kind": "ltx2.v1"},
        {"kind": 1, "payload": {}},
        {"kind": "other.v1", "payload": {}},
        {"kind": "ltx2.v1", "payload": []},
        {"kind": "ltx2.v1", "payload": {"metadata": {state_wire.METADATA_BLOB: "BAD"}}},
    ],
    ids=repr,
)
def test_an_invalid_state_is_rejected(envelope: dict[str, Any]) -> None:
    blobs = InMemoryBlobStore()
    bad = blobs.put(b"{not json")
    if "metadata" in envelope.get("payload", ()):
        envelope = {"kind": "ltx2.v1", "payload": {"metadata": {state_wire.METADATA_BLOB: bad}}}
    with pytest.raises(ContinuationError):
        state_wire.decode(envelope, blobs)


def test_the_state_cache_keeps_the_last_two_states() -> None:
    # Given
    cache, made = StateCache(), [a_state(segment_index=index) for index in range(3)]
    # When
    for index in (0, 1, 0, 2):
        cache.put(str(index), made[index])
    # Then
    assert [cache.get(str(index)) for index in range(3)] == [made[0], None, made[2]]


def test_the_digest_is_of_the_content() -> None:
    blobs = InMemoryBlobStore()
    one, same = (Handoff(3, state_wire.encode(a_state(), blobs, inline_threshold_bytes=0)) for _ in range(2))
    other = Handoff(3, state_wire.encode(a_state(segment_index=4), blobs, inline_threshold_bytes=0))
    assert one.digest == same.digest != other.digest
