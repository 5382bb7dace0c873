"""Reads continuation states from files, and starts jobs from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from blobstore import BlobStore, BlobStoreError
from ltx2.errors import ContinuationError, TimelineError
from ltx2.state.arrays import FrameFormat
from tasks.errors import SpecError
from tasks.field_errors import shown_path
from tasks.jobs import state_wire
from tasks.jobs.records import Handoff, timing_after
from tasks.jobs.units import START_INDEX
from tasks.spec.input_files import read_input
from tasks.spec.schema import JobSpec

MAX_STATE_BYTES = 512 * 1024 * 1024


def read_state(path: Path) -> dict[str, Any]:
    """Read the state in the file `path`: JSON with `kind` and `payload`.

    Raises:
        SpecError: the file cannot be read, or has no state.
    """
    text = read_input(path, MAX_STATE_BYTES, "a state")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise SpecError(f"{shown_path(path)}: not JSON; use a file written by `longtake state export`") from None
    if not isinstance(data, dict):
        raise SpecError(f"{shown_path(path)}: must be a mapping with `kind` and `payload`")
    return data


def start_handoff(envelope: dict[str, Any], spec: JobSpec, blobs: BlobStore, *, inline_threshold_bytes: int) -> Handoff:
    """Make the handoff (index -1) that a job continues; its arrays and metadata are put into `blobs`.

    Raises:
        SpecError: not a state, or it does not match the spec; names the field.
    """
    try:
        frame_format = FrameFormat(spec.width, spec.height, spec.overlap)
        state = state_wire.decode(envelope, blobs, frame_format=frame_format)
        if state.video_frames is None and state.audio_latents is None:
            raise ContinuationError("video, audio: the state has neither, so there is nothing to continue")
        encoded = state_wire.encode(state, blobs, inline_threshold_bytes=inline_threshold_bytes)
        handoff = Handoff(index=START_INDEX, state=encoded)
        timing_after(spec.shape, handoff)
    except (ContinuationError, TimelineError, BlobStoreError) as error:
        raise SpecError(f"the state to continue cannot be used: {error}") from None
    return handoff
