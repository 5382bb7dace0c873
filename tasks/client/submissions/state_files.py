"""Reads continuation states from files, and starts jobs from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from blobstore import BlobStore, BlobStoreError
from ltx2.checkpoints.resolve import check_configs, local_name
from ltx2.errors import CheckpointError, ContinuationError, TimelineError, UnsupportedStateError
from ltx2.state.arrays import FrameFormat
from ltx2.state.renderable import check_renderable
from ltx2.state.validation import LARGEST_INT
from ltx2.timeline import PlannedSegment
from tasks.errors import SpecError
from tasks.field_errors import shown_path
from tasks.jobs import state_wire
from tasks.jobs.records import Handoff
from tasks.jobs.timing import timing_after
from tasks.jobs.units import START_INDEX
from tasks.settings import Settings
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


def refuse_first_cut(spec: JobSpec) -> None:
    """SpecError: the segments of `spec` start with a cut. They are the first of a job that continues a state."""
    if spec.segments and spec.segments[0].transition == "cut":
        place = spec.source.place("segments", 0, "transition")
        raise SpecError(f"{place}: a job that continues a state cannot start with a cut")


def start_handoff(
    envelope: dict[str, Any], spec: JobSpec, blobs: BlobStore, pending: BlobStore, settings: Settings
) -> Handoff:
    """Make the handoff (index -1) that a job continues, from a state whose blobs are in `blobs`.

    Its arrays and metadata are put into `pending`.

    What a worker would find wrong with the state is found here, as far as the model is known here.

    Raises:
        SpecError: not a state, or it does not match the spec; names the field.
    """
    try:
        first, *rest = [spec.planned(segment) for segment in spec.segments[:2]] or [PlannedSegment(spec.shape)]
        frame_format = FrameFormat(spec.width, spec.height, first.shape.overlap)
        state = state_wire.decode(envelope, blobs, frame_format=frame_format)
        if state.video_frames is None and state.audio_latents is None:
            raise ContinuationError("video, audio: the state has neither, so there is nothing to continue")
        encoded = state_wire.encode(state, pending, inline_threshold_bytes=settings.inline_threshold_bytes)
        handoff = Handoff(index=START_INDEX, state=encoded)
        timing = timing_after(first, handoff, following=rest[0] if rest else None)
        check_renderable(
            state,
            overlap=first.shape.overlap,
            size=(spec.height, spec.width),
            audio_latents=timing.audio_latents,
            audio_rate=_audio_rate(spec.model or settings.model, settings),
        )
        if state.segment_index + len(spec.segments) > LARGEST_INT:
            raise ContinuationError(
                f"segment_index: {state.segment_index} leaves no index for the segments of this job"
            )
    except (ContinuationError, TimelineError, UnsupportedStateError, BlobStoreError) as error:
        raise SpecError(f"the state to continue cannot be used: {error}") from None
    return handoff


def _audio_rate(model: str, settings: Settings) -> int | None:
    """The sample rate of a model whose folder is here; None if it is unknown, as for one on the hub."""
    folder = Path(local_name(model))
    if settings.has_custom_engine or not folder.is_dir():
        return None
    try:
        return check_configs(folder).audio_rate
    except CheckpointError:
        return None  # a worker says what is wrong with it
