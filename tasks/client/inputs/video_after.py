"""Reads the beginning of a user's video, into which the last segment of a job leads."""

from __future__ import annotations

from pathlib import Path

from blobstore import BlobStore
from ltx2 import LTX2ContinuationState
from ltx2.media.sources.excerpts import Excerpt
from ltx2.media.sources.lead_in import wanted_beginning
from ltx2.media.sources.pictures import Fit
from ltx2.media.sources.reader import read_beginning
from tasks.client.inputs.video import put_sound
from tasks.errors import SpecError
from tasks.field_errors import shown_path
from tasks.jobs import state_wire
from tasks.jobs.records import Handoff
from tasks.jobs.units import VIDEO_AFTER_INDEX
from tasks.spec.input_files import open_input
from tasks.spec.schema import JobSpec


def read_video_after(path: Path | str, spec: JobSpec, *, field: str) -> Excerpt:
    """The beginning of the video `path` at the rate and size of `spec`. field: goes before the path in errors.

    Raises:
        SpecError: the file is missing, or no video that a segment can lead into; names it.
    """
    with open_input(path, field=field) as file:
        try:
            return read_beginning(file, wanted_beginning(spec.shape, spec.width, spec.height, Fit(spec.fit)))
        except ValueError as error:
            raise SpecError(f"{field}: {shown_path(path)}: {error}") from None


def stored_video_after(
    beginning: Excerpt, spec: JobSpec, blobs: BlobStore, *, inline_threshold_bytes: int
) -> tuple[str, Handoff]:
    """Put the beginning of a video into `blobs`: the blob of its sound, which names its frames, too, and its handoff.

    The same video gives the same blobs.
    """
    frames = list(beginning.frames)
    state = state_wire.encode(
        LTX2ContinuationState(video_frames=frames), blobs, inline_threshold_bytes=inline_threshold_bytes
    )
    shown = beginning.available if spec.include_video else len(frames)
    video = Handoff(index=VIDEO_AFTER_INDEX, state=state, first_frame=shown, dissolve=len(frames))
    return put_sound(beginning.sound, frames, blobs), video
