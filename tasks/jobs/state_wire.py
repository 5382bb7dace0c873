"""The wire form of continuation states: one dict, which messages and job records share."""

from __future__ import annotations

import json
from typing import Any

import msgpack

from blobstore import BlobCorruptError, BlobNotFoundError, BlobStore
from ltx2 import ContinuationState, LTX2ContinuationState
from ltx2.errors import ContinuationError
from ltx2.state.arrays import FrameFormat
from tasks.errors import RecordError
from tasks.jobs.json_limits import NESTING_LIMIT, nesting
from tasks.jobs.records import Handoff

METADATA_LIMIT_BYTES = 1024
METADATA_LIMIT_LEVELS = NESTING_LIMIT // 2
KOMBU_TYPE = b'"__type__"'
METADATA_BLOB = "longtake_metadata_blob"
METADATA_MIME = "application/json"


def encode(state: LTX2ContinuationState, blobs: BlobStore, *, inline_threshold_bytes: int) -> dict[str, Any]:
    """`state` as a dict with `kind` and `payload`: arrays and metadata above the threshold as blob ids.

    Metadata up to 1 KiB stays inline whatever the threshold is, unless JSON messages cannot carry it.

    Raises:
        BlobStoreError: an array could not be stored.
    """
    envelope = state.to_continuation_state(blob_store=blobs, inline_threshold_bytes=inline_threshold_bytes)
    payload = _with_metadata_moved(envelope.payload, blobs, max(inline_threshold_bytes, METADATA_LIMIT_BYTES))
    return {"kind": envelope.kind, "payload": payload}


def decode(
    envelope: dict[str, Any], blobs: BlobStore, *, frame_format: FrameFormat | None = None
) -> LTX2ContinuationState:
    """The state with its arrays. frame_format: what its frames must be; others are not decoded.

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
    return LTX2ContinuationState.from_continuation_state(
        ContinuationState(kind, payload), blob_store=blobs, frame_format=frame_format
    )


def state_blobs(envelope: dict[str, Any]) -> list[str]:
    """Every blob that a state names.

    Raises:
        RecordError: it is damaged.
    """
    try:
        payload = envelope["payload"]
        parts = (payload.get("video") or {}, payload.get("audio") or {})
        found = [part["blob_id"] for part in parts if "blob_id" in part]
        moved = (payload.get("metadata") or {}).get(METADATA_BLOB)
    except (AttributeError, KeyError, TypeError) as error:
        raise RecordError(f"a stored state is damaged: {type(error).__name__}: {error}") from None
    blobs = [*found, moved] if moved else found
    if not all(isinstance(blob_id, str) for blob_id in blobs):
        raise RecordError("a stored state is damaged: the id of a blob is not a text")
    return blobs


def handoff_blobs(handoff: Handoff) -> list[str]:
    """Every blob that this handoff names: those of its state, the latents, and of a start the clips of its video."""
    latents = [] if handoff.latents is None else [handoff.latents]
    return [*state_blobs(handoff.state), *latents, *handoff.source_clips]


def is_whole(blob_id: str, blobs: BlobStore) -> bool:
    """Whether the right bytes of a blob are stored. The blob is read for that; a damaged one is quarantined."""
    try:
        blobs.get(blob_id)
    except (BlobNotFoundError, BlobCorruptError):
        return False
    return True


def _metadata_of(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise ContinuationError(f"metadata.{METADATA_BLOB}: the blob it names is not JSON") from None


def _fits_a_record(metadata: dict[str, Any]) -> bool:
    """Whether msgpack can carry it, too: JSON has larger integers, and halves of surrogate pairs."""
    try:
        msgpack.packb(metadata)
    except (OverflowError, ValueError):
        return False
    return True


def _with_metadata_moved(payload: dict[str, Any], blobs: BlobStore, limit: int) -> dict[str, Any]:
    encoded = json.dumps(payload["metadata"]).encode()
    # kombu would convert a mapping with the key "__type__" into another type
    is_small = len(encoded) <= limit and nesting(payload["metadata"]) <= METADATA_LIMIT_LEVELS
    if is_small and KOMBU_TYPE not in encoded and _fits_a_record(payload["metadata"]):
        return dict(payload)
    return {**payload, "metadata": {METADATA_BLOB: blobs.put(encoded, mime=METADATA_MIME)}}
