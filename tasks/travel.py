"""States as files that travel: out of one job, into another, on any machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from blobstore import BlobStoreError, ManagedBlobStore
from ltx2.errors import ContinuationError, TimelineError
from ltx2.timeline import SegmentShape, SegmentTiming, continued_timing
from tasks import handoff as states
from tasks.errors import SpecError
from tasks.records import FROM_OUTSIDE, Handoff
from tasks.spec import JobSpec

MAX_STATE_BYTES = 512 * 1024 * 1024


def read_state(path: Path) -> dict[str, Any]:
    """The state in the file `path`: JSON with `kind` and `payload`.

    Raises:
        SpecError: not such a file.
    """
    try:
        if path.stat().st_size > MAX_STATE_BYTES:
            raise SpecError(f"{path}: larger than {MAX_STATE_BYTES} bytes")
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise SpecError(f"{path}: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise SpecError(f"{path}: not JSON; `longtake state export` writes such files") from None
    if not isinstance(data, dict):
        raise SpecError(f"{path}: must be an object with `kind` and `payload`")
    return data


def record_of_outside(envelope: dict[str, Any], spec: JobSpec, blobs: ManagedBlobStore, *, owner: str) -> Handoff:
    """The handoff (index -1) from which a job with `spec` continues; its blobs are pinned for `owner`.

    Raises:
        SpecError: not a state, or one that does not fit the spec; names the field.
    """
    mine = blobs.owned_by(owner)
    try:
        state = states.hydrate(envelope, mine)
        if state.video_frames is None and state.audio_latents is None:
            raise ContinuationError("video, audio: the state has neither, there is nothing to continue")
        for frame in state.video_frames or []:
            if frame.shape[:2] != (spec.height, spec.width):
                raise ContinuationError(
                    f"video: its frames are {frame.shape[1]}x{frame.shape[0]}, the spec says {spec.width}x{spec.height}"
                )
        if state.video_frames and len(state.video_frames) != spec.overlap:
            raise ContinuationError(
                f"video: it has {len(state.video_frames)} frames, the spec's overlap is {spec.overlap}"
            )
        record = states.to_record(states.to_message(state, mine, inline_threshold_bytes=0), mine)
        outside_timing(spec.shape, record["payload"])
    except (ContinuationError, TimelineError, BlobStoreError) as error:
        raise SpecError(f"the state to continue cannot be used: {error}") from None
    ids = states.blob_ids(record)
    blobs.pin(ids, owner)
    return Handoff(index=FROM_OUTSIDE, state=record, digest=states.digest(record), blobs=ids)


def outside_timing(shape: SegmentShape, payload: dict[str, Any]) -> SegmentTiming:
    """Where the first segment of a job sits that continues a state from elsewhere: its own numbers are obeyed."""
    return continued_timing(
        shape,
        pinned=payload["audio_conditioning_num_frames"],
        offset=payload["video_position_offset_sec"],
        index=payload["segment_index"] + 1,
        first_frame=0,
    )
