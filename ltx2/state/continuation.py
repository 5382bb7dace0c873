"""The state that one LTX-2 segment passes to the next, and its JSON envelope.

The envelope's payload is plain JSON. Arrays are base64 in the payload, or blobs in a blob store.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from blobstore.protocol import BlobStore
from ltx2.errors import ContinuationError
from ltx2.state import validation as check
from ltx2.state.arrays import (
    FRAMES_MIME,
    TENSOR_MIME,
    FrameFormat,
    decode_frames,
    decode_tensor,
    encode_frames,
    encode_tensor,
    pack_frames,
    unpack_frames,
)
from ltx2.state.png import Frame

if TYPE_CHECKING:
    from torch import Tensor

LTX2_CONTINUATION_KIND = "ltx2.v1"
LTX2_CONTINUATION_SCHEMA_VERSION = 1
DEFAULT_INLINE_THRESHOLD_BYTES = 2 * 1024 * 1024

# always present in an encoded payload, under these names
_FIELDS: dict[str, Callable[[str, object], Any]] = {
    "segment_index": check.count,
    "video_conditioning_frame_idx": check.count,
    "video_conditioning_strength": check.strength,
    "audio_conditioning_num_frames": check.count,
    "audio_conditioning_strength": check.strength,
    "video_position_offset_sec": check.finite,
    "metadata": check.metadata,
}


@dataclass
class ContinuationState:
    """An envelope: `kind` names the format of `payload`, a plain JSON-serialisable dict."""

    kind: str
    payload: dict[str, Any]


@dataclass
class LTX2ContinuationState:
    """The state after one LTX-2 segment; every field is optional.

    segment_index: the segment just completed; the next one is `segment_index + 1`.
    video_frames: its trailing decoded frames, uint8 `(H, W, 3)` RGB, all of one size; None if unset or in a blob.
    video_frames_blob_id: the blob with these frames.
    video_conditioning_frame_idx: the latent frame of the next segment that these frames align with.
    video_conditioning_strength: in [0, 1]; 1 keeps the frames.
    audio_latents: its denoised audio latents `[B, C, T, mel]`, any float dtype; None if unset or in a blob.
    audio_latents_blob_id: the blob with these latents.
    audio_sample_rate: in Hz, e.g. 24000.
    audio_conditioning_num_frames: how many trailing latents of the T axis the next segment keeps as clean context.
    audio_conditioning_strength: mask value of these latents, in [0, 1]: 0 keeps them, 1 renoises them from scratch.
    video_position_offset_sec: seconds by which the next segment's video positions are shifted forward.
    metadata: other JSON data, kept unchanged; `audio_latents_space` is "normalised" (the default) or "denormalised".
    """

    segment_index: int = 0
    video_frames: list[Frame] | None = None
    video_frames_blob_id: str | None = None
    video_conditioning_frame_idx: int = 0
    video_conditioning_strength: float = 1.0
    audio_latents: Tensor | None = None
    audio_latents_blob_id: str | None = None
    audio_sample_rate: int | None = None
    audio_conditioning_num_frames: int = 0
    audio_conditioning_strength: float = 1.0
    video_position_offset_sec: float = 0.0
    metadata: dict[str, Any] = field(default_factory=dict)

    def to_continuation_state(
        self, *, blob_store: BlobStore | None = None, inline_threshold_bytes: int = DEFAULT_INLINE_THRESHOLD_BYTES
    ) -> ContinuationState:
        """Encode this state. With a store, an encoded array larger than the threshold becomes a blob.

        If a blob id is set, the id is passed on and the array is not encoded. Nothing is stored before everything is
        checked and encoded. The store's own errors pass through.

        Raises:
            ContinuationError: a field with an invalid value; the message names it.
            TypeError: frames or latents that are not arrays.
        """
        payload: dict[str, Any] = {"schema_version": LTX2_CONTINUATION_SCHEMA_VERSION}
        payload |= {name: checked(name, getattr(self, name)) for name, checked in _FIELDS.items()}
        if self.audio_sample_rate is not None:
            payload["audio_sample_rate"] = check.rate("audio_sample_rate", self.audio_sample_rate)
        pngs, tensor = list[bytes](), b""
        if self.video_frames_blob_id is not None:
            payload["video"] = {"blob_id": check.text("video_frames_blob_id", self.video_frames_blob_id)}
        elif self.video_frames is not None:
            pngs = encode_frames(self.video_frames)
        if self.audio_latents_blob_id is not None:
            payload["audio"] = {"blob_id": check.text("audio_latents_blob_id", self.audio_latents_blob_id)}
        elif self.audio_latents is not None:
            tensor = encode_tensor(self.audio_latents)
        if pngs:
            is_large = sum(map(len, pngs)) > inline_threshold_bytes
            payload["video"] = _video_part(pngs, blob_store if is_large else None)
        if tensor:
            is_large = len(tensor) > inline_threshold_bytes
            payload["audio"] = _audio_part(tensor, blob_store if is_large else None)
        return ContinuationState(LTX2_CONTINUATION_KIND, payload)

    @classmethod
    def from_continuation_state(
        cls,
        state: ContinuationState,
        *,
        blob_store: BlobStore | None = None,
        frame_format: FrameFormat | None = None,
    ) -> LTX2ContinuationState:
        """Decode an envelope. With a store, blobs are read; without one, their ids are kept.

        frame_format: refuse other frames by their headers, before any is decoded.

        The store's own errors, for a missing or corrupt blob, pass through.

        Raises:
            ContinuationError: an invalid envelope, kind, version or field; the message names it.
        """
        payload = _checked_payload(state)
        fields = {name: checked(name, payload[name]) for name, checked in _FIELDS.items() if name in payload}
        if payload.get("audio_sample_rate") is not None:
            fields["audio_sample_rate"] = check.rate("audio_sample_rate", payload["audio_sample_rate"])
        result = cls(**fields)
        if payload.get("video") is not None:
            result._read_video(payload["video"], blob_store, frame_format)
        if payload.get("audio") is not None:
            result._read_audio(payload["audio"], blob_store)
        return result

    def _read_video(self, video: object, blob_store: BlobStore | None, expected: FrameFormat | None) -> None:
        video = check.mapping("video", video)
        if check.one_of("video", video, ("frames_b64", "blob_id")) == "frames_b64":
            name, pngs = "video.frames_b64", _inline_pngs(video["frames_b64"])
        else:
            name, blob_id = "video.blob_id", check.text("video.blob_id", video["blob_id"])
            declared = video.get("frame_count")
            if declared is not None:
                check.count("video.frame_count", declared)
            if blob_store is None:
                self.video_frames_blob_id = blob_id
                return
            pngs = unpack_frames(blob_store.get(blob_id), field=name)
            if declared is not None and declared != len(pngs):
                raise ContinuationError(f"video.frame_count: {declared} declared, but the blob has {len(pngs)} frames")
        self.video_frames = decode_frames(pngs, field=name, expected=expected) or None

    def _read_audio(self, audio: object, blob_store: BlobStore | None) -> None:
        audio = check.mapping("audio", audio)
        form = check.one_of("audio", audio, ("safetensors_b64", "blob_id"))
        if form == "safetensors_b64":
            data = check.base64_bytes("audio.safetensors_b64", audio["safetensors_b64"])
        else:
            blob_id = check.text("audio.blob_id", audio["blob_id"])
            if blob_store is None:
                self.audio_latents_blob_id = blob_id
                return
            data = blob_store.get(blob_id)
        self.audio_latents = decode_tensor(data, field=f"audio.{form}")


def _checked_payload(state: ContinuationState) -> dict[str, Any]:
    if not isinstance(state, ContinuationState):
        raise ContinuationError(f"state: must be a ContinuationState, not {check.shown(state)}")
    if state.kind != LTX2_CONTINUATION_KIND:
        raise ContinuationError(
            f"Expected ContinuationState.kind={LTX2_CONTINUATION_KIND!r}, got {check.shown(state.kind)}"
        )
    payload = dict(check.mapping("payload", state.payload))
    version = payload.get("schema_version", LTX2_CONTINUATION_SCHEMA_VERSION)
    if isinstance(version, bool) or not isinstance(version, int) or version != LTX2_CONTINUATION_SCHEMA_VERSION:
        expected = LTX2_CONTINUATION_SCHEMA_VERSION
        raise ContinuationError(
            f"Unsupported LTX-2 continuation schema_version={check.shown(version)}; this build expects {expected}"
        )
    return payload


def _video_part(pngs: list[bytes], blob_store: BlobStore | None) -> dict[str, Any]:
    if blob_store is None:
        return {"frames_b64": [_base64(png) for png in pngs]}
    return {"blob_id": blob_store.put(pack_frames(pngs), mime=FRAMES_MIME), "frame_count": len(pngs)}


def _audio_part(tensor: bytes, blob_store: BlobStore | None) -> dict[str, Any]:
    if blob_store is None:
        return {"safetensors_b64": _base64(tensor)}
    return {"blob_id": blob_store.put(tensor, mime=TENSOR_MIME)}


def _inline_pngs(encoded: object) -> list[bytes]:
    if not isinstance(encoded, list):
        raise ContinuationError(f"video.frames_b64: must be a list of strings, not {check.shown(encoded)}")
    return [check.base64_bytes(f"video.frames_b64[{i}]", item) for i, item in enumerate(encoded)]


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
