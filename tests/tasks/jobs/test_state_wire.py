"""States as messages and records carry them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from blobstore import InMemoryBlobStore
from ltx2 import LTX2ContinuationState
from ltx2.errors import ContinuationError
from tasks.jobs import state_wire as handoff
from tasks.worker.state_cache import StateCache


def a_state(**changes: Any) -> LTX2ContinuationState:
    frames = [np.full((32, 64, 3), shade, np.uint8) for shade in range(9)]
    audio = torch.arange(8 * 26 * 16, dtype=torch.float32).reshape(1, 8, 26, 16)
    return LTX2ContinuationState(**{"video_frames": frames, "audio_latents": audio, "segment_index": 3, **changes})


@pytest.mark.parametrize("threshold", [0, 1024, 2**20])
def test_a_record_holds_ids_whatever_the_message_held(threshold: int) -> None:
    # Given
    blobs = InMemoryBlobStore()
    # When
    message = handoff.to_message(a_state(), blobs, inline_threshold_bytes=threshold)
    record = handoff.to_record(message, blobs)
    # Then
    assert set(record["payload"]["video"]) == {"blob_id", "frame_count"}
    assert set(record["payload"]["audio"]) == {"blob_id"}
    assert ("frames_b64" in message["payload"]["video"]) == (threshold == 2**20)
    assert all(handoff.is_whole(blob_id, blobs) for blob_id in handoff.blob_ids(record))
    for envelope in (message, record):
        found = handoff.hydrate(envelope, blobs)
        assert found.video_frames is not None
        assert found.audio_latents is not None
        assert all((a == b).all() for a, b in zip(found.video_frames, a_state().video_frames or [], strict=True))
        assert torch.equal(found.audio_latents, a_state().audio_latents)


def test_records_are_the_same_whatever_the_threshold() -> None:
    blobs = InMemoryBlobStore()
    records = [
        handoff.to_record(handoff.to_message(a_state(), blobs, inline_threshold_bytes=threshold), blobs)
        for threshold in (0, 1024, 2**20)
    ]
    assert records[0] == records[1] == records[2]


@pytest.mark.parametrize(("size", "moved"), [(900, False), (1100, True)])
def test_metadata_above_1_kb_goes_into_a_blob_and_comes_back(size: int, moved: bool) -> None:
    # Given
    blobs = InMemoryBlobStore()
    metadata = {"note": "x" * size, "nested": [1, None, {"a": 2.5}]}
    # When
    message = handoff.to_message(a_state(metadata=metadata), blobs, inline_threshold_bytes=1024)
    # Then
    assert (handoff.METADATA_BLOB in message["payload"]["metadata"]) == moved
    assert len(handoff.blob_ids(handoff.to_record(message, blobs))) == 2 + moved
    assert handoff.hydrate(message, blobs).metadata == metadata


def test_a_state_without_arrays_is_a_state() -> None:
    blobs = InMemoryBlobStore()
    message = handoff.to_message(LTX2ContinuationState(), blobs, inline_threshold_bytes=0)
    assert handoff.blob_ids(handoff.to_record(message, blobs)) == []
    assert handoff.hydrate(message, blobs) == LTX2ContinuationState()


@pytest.mark.parametrize(
    "envelope",
    [
        {},
        {"kind": "ltx2.v1"},
        {"kind": 1, "payload": {}},
        {"kind": "other.v1", "payload": {}},
        {"kind": "ltx2.v1", "payload": []},
        {"kind": "ltx2.v1", "payload": {"metadata": {handoff.METADATA_BLOB: "BAD"}}},
    ],
    ids=repr,
)
def test_what_is_no_state_is_refused(envelope: dict[str, Any]) -> None:
    blobs = InMemoryBlobStore()
    bad = blobs.put(b"{not json")
    if "metadata" in envelope.get("payload", ()):
        envelope = {"kind": "ltx2.v1", "payload": {"metadata": {handoff.METADATA_BLOB: bad}}}
    with pytest.raises(ContinuationError):
        handoff.hydrate(envelope, blobs)


def test_the_last_two_states_of_a_process_are_kept() -> None:
    # Given
    own, made = StateCache(), [a_state(segment_index=index) for index in range(3)]
    # When
    for index in (0, 1, 0, 2):
        own.put(str(index), made[index])
    # Then
    assert [own.get(str(index)) for index in range(3)] == [made[0], None, made[2]]


def test_the_digest_is_of_the_content() -> None:
    blobs = InMemoryBlobStore()
    one, same = (handoff.to_message(a_state(), blobs, inline_threshold_bytes=0) for _ in range(2))
    other = handoff.to_message(a_state(segment_index=4), blobs, inline_threshold_bytes=0)
    assert handoff.digest(one) == handoff.digest(same) != handoff.digest(other)
