"""Continuation states as messages and job records carry them."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from blobstore import BlobCorruptError, BlobNotFoundError, BlobStore
from ltx2 import ContinuationState, LTX2ContinuationState
from ltx2.errors import ContinuationError
from ltx2.state.arrays import FRAMES_MIME, TENSOR_MIME, pack_frames
from ltx2.timeline import SegmentShape, SegmentTiming, continued_timing
from tasks.jobs.json_limits import NESTING_LIMIT, nesting
from tasks.jobs.records import Handoff

METADATA_LIMIT_BYTES = 1024
METADATA_LIMIT_LEVELS = NESTING_LIMIT // 2
KOMBU_TYPE = b'"__type__"'
METADATA_BLOB = "longtake_metadata_blob"
METADATA_MIME = "application/json"


def to_message(state: LTX2ContinuationState, blobs: BlobStore, *, inline_threshold_bytes: int) -> dict[str, Any]:
    """`state` as a message carries it: arrays (and metadata) larger than the threshold as blob ids.

    Metadata is not moved below 1 KiB, unless no message can carry it as it is: a message of ours stays under 8 KB with
    the default threshold.
    """
    envelope = state.to_continuation_state(blob_store=blobs, inline_threshold_bytes=inline_threshold_bytes)
    payload = _metadata_moved(envelope.payload, blobs, max(inline_threshold_bytes, METADATA_LIMIT_BYTES))
    return {"kind": envelope.kind, "payload": payload}


def to_record(message: dict[str, Any], blobs: BlobStore) -> dict[str, Any]:
    """The same state with every array as a blob id, whatever the message's threshold was."""
    payload = _metadata_moved(message["payload"], blobs, METADATA_LIMIT_BYTES)
    video, audio = payload.get("video") or {}, payload.get("audio") or {}
    if "frames_b64" in video:
        pngs = [base64.b64decode(png) for png in video["frames_b64"]]
        payload["video"] = {
            "blob_id": blobs.put(pack_frames(pngs), mime=FRAMES_MIME),
            "frame_count": len(pngs),
        }
    if "safetensors_b64" in audio:
        tensor = base64.b64decode(audio["safetensors_b64"])
        payload["audio"] = {"blob_id": blobs.put(tensor, mime=TENSOR_MIME)}
    return {"kind": message["kind"], "payload": payload}


def hydrate(envelope: dict[str, Any], blobs: BlobStore) -> LTX2ContinuationState:
    """The state with its arrays.

    Raises:
        ContinuationError: not a state; names the field.
        BlobNotFoundError, BlobCorruptError: an array of it was lost.
    """
    kind, payload = envelope.get("kind"), envelope.get("payload")
    if not isinstance(kind, str) or not isinstance(payload, dict):
        raise ContinuationError("a state needs a `kind` and a `payload`, as `longtake state export` writes them")
    metadata = payload.get("metadata")
    if isinstance(metadata, dict) and set(metadata) == {METADATA_BLOB}:
        payload = {**payload, "metadata": _metadata_of(blobs.get(str(metadata[METADATA_BLOB])))}
    return LTX2ContinuationState.from_continuation_state(ContinuationState(kind, payload), blob_store=blobs)


def _metadata_of(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise ContinuationError(f"metadata.{METADATA_BLOB}: the blob it names is not JSON") from None


def blob_ids(envelope: dict[str, Any]) -> list[str]:
    """Every blob that a state names."""
    payload = envelope["payload"]
    parts = (payload.get("video") or {}, payload.get("audio") or {})
    found = [part["blob_id"] for part in parts if "blob_id" in part]
    moved = payload.get("metadata", {}).get(METADATA_BLOB)
    return [*found, moved] if moved else found


def digest(envelope: dict[str, Any]) -> str:
    """The hash by which a message's state is recognised as the record's."""
    return hashlib.sha256(json.dumps(envelope, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def trusted(message: dict[str, Any] | None, handoff: Handoff) -> dict[str, Any]:
    """The message's copy of a state where it is the record's, else the record's own."""
    try:
        if message is not None and digest(message) == handoff.digest:
            return message
    except (TypeError, ValueError, RecursionError):
        pass  # nothing of ours: what we publish can be hashed
    return handoff.state


def is_whole(blob_id: str, blobs: BlobStore) -> bool:
    """Whether a blob is there with the right bytes; it is read for that, and a damaged one is set aside."""
    try:
        blobs.get(blob_id)
    except (BlobNotFoundError, BlobCorruptError):
        return False
    return True


def _metadata_moved(payload: dict[str, Any], blobs: BlobStore, limit: int) -> dict[str, Any]:
    encoded = json.dumps(payload["metadata"]).encode()
    # What says "__type__", kombu would read as something else than it is.
    if len(encoded) <= limit and KOMBU_TYPE not in encoded and nesting(payload["metadata"]) <= METADATA_LIMIT_LEVELS:
        return dict(payload)
    return {**payload, "metadata": {METADATA_BLOB: blobs.put(encoded, mime=METADATA_MIME)}}


def outside_timing(shape: SegmentShape, payload: dict[str, Any]) -> SegmentTiming:
    """Where the first segment of a job sits that continues a state from elsewhere: its own numbers are obeyed."""
    return continued_timing(
        shape,
        pinned=payload["audio_conditioning_num_frames"],
        offset=payload["video_position_offset_sec"],
        index=payload["segment_index"] + 1,
        first_frame=0,
    )
