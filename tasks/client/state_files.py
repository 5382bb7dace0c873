"""Reads continuation states from files, and starts jobs from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from blobstore import BlobStore, BlobStoreError
from ltx2.errors import ContinuationError, TimelineError
from tasks.errors import SpecError
from tasks.jobs import state_wire
from tasks.jobs.records import Handoff, timing_after
from tasks.jobs.units import START_INDEX
from tasks.spec.schema import JobSpec

MAX_STATE_BYTES = 512 * 1024 * 1024


def read_state(path: Path) -> dict[str, Any]:
    """Read the state in the file `path`: JSON with `kind` and `payload`.

    Raises:
        SpecError: the file cannot be read, or has no state.
    """
    try:
        if path.stat().st_size > MAX_STATE_BYTES:
            raise SpecError(f"{path}: larger than {MAX_STATE_BYTES:,} bytes, the limit for a state")
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise SpecError(f"{path}: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise SpecError(f"{path}: not JSON; use a file written by `longtake state export`") from None
    if not isinstance(data, dict):
        raise SpecError(f"{path}: must be a mapping with `kind` and `payload`")
    return data


def start_handoff(envelope: dict[str, Any], spec: JobSpec, blobs: BlobStore, *, inline_threshold_bytes: int) -> Handoff:
    """Make the handoff (index -1) that a job continues; its arrays and metadata are put into `blobs`.

    Raises:
        SpecError: not a state, or it does not match the spec; names the field.
    """
    try:
        state = state_wire.decode(envelope, blobs)
        if state.video_frames is None and state.audio_latents is None:
            raise ContinuationError("video, audio: the state has neither, so there is nothing to continue")
        for frame in state.video_frames or []:
            if frame.shape[:2] != (spec.height, spec.width):
                raise ContinuationError(
                    f"video: its frames are {frame.shape[1]}x{frame.shape[0]}, the spec says {spec.width}x{spec.height}"
                )
        if state.video_frames and len(state.video_frames) != spec.overlap:
            raise ContinuationError(
                f"video: it has {len(state.video_frames)} frames, the spec's overlap is {spec.overlap}"
            )
        encoded = state_wire.encode(state, blobs, inline_threshold_bytes=inline_threshold_bytes)
        handoff = Handoff(index=START_INDEX, state=encoded)
        timing_after(spec.shape, handoff)
    except (ContinuationError, TimelineError, BlobStoreError) as error:
        raise SpecError(f"the state to continue cannot be used: {error}") from None
    return handoff
