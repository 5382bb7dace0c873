"""Reads the end of a user's video, as the start of a job or as a state."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blobstore import BlobStore
from ltx2.media.container import MP4_MIME
from ltx2.media.sound_file import MIME, encode_flac
from ltx2.media.sources.extension import SOUND_RATE, Extension, extension_of, lead_of, wanted_of
from ltx2.media.sources.pictures import Fit
from ltx2.media.sources.reader import encode_video, read_ending
from ltx2.media.sources.whole import WantedParts
from tasks.errors import SpecError
from tasks.field_errors import shown_path
from tasks.jobs import state_wire
from tasks.jobs.records import Handoff
from tasks.jobs.units import START_INDEX
from tasks.settings import Settings
from tasks.spec.input_files import open_input
from tasks.spec.schema import JobSpec


def read_extension(path: Path | str, spec: JobSpec, *, field: str = "") -> Extension:
    """The end of the video `path` at the rate and size of `spec`. field: goes before the path in errors.

    Raises:
        SpecError: the file is missing, or no video that can be continued; names it.
    """
    named = f"{field}: {shown_path(path)}" if field else shown_path(path)
    with open_input(path, field=field) as file:
        try:
            ending = read_ending(file, wanted_of(spec.first_shape, spec.width, spec.height, Fit(spec.fit)))
        except ValueError as error:
            raise SpecError(f"{named}: {error}") from None
    return extension_of(ending, spec.first_shape)


@dataclass(frozen=True, slots=True)
class VideoStart:
    """A video that a job extends, as it is stored. start: the handoff that the job continues, without audio latents.

    sound: the blob of the sound from which a worker makes them. It names the frames too, so that it stands for both.
    """

    start: Handoff
    sound: str


def stored_extension(
    extension: Extension, spec: JobSpec, blobs: BlobStore, *, inline_threshold_bytes: int
) -> VideoStart:
    """Put the end of a video into `blobs`; the same video gives the same blobs."""
    state = state_wire.encode(extension.state, blobs, inline_threshold_bytes=inline_threshold_bytes)
    first_frame = extension.available if spec.include_video else spec.video_overlap
    start = Handoff(index=START_INDEX, state=state, first_frame=first_frame)
    return VideoStart(start, put_sound(extension.sound, extension.state.video_frames or (), blobs))


def put_sound(sound: NDArray[np.float32], frames: Iterable[NDArray[np.uint8]], blobs: BlobStore) -> str:
    """Put the sound of a part of a video into `blobs`. Its id names the frames, too."""
    digest = hashlib.sha256(b"".join(frame.tobytes() for frame in frames)).hexdigest()
    return blobs.put(encode_flac([sound], SOUND_RATE, comment=f"frames {digest}"), mime=MIME)


def with_source(given: Handoff, spec: JobSpec, blobs: BlobStore) -> Handoff:
    """`given`, a start or a video that follows, with the clips of the whole video, which are put into `blobs`.

    Raises:
        SpecError: it is too long or too large, or cannot be decoded; names it.
    """
    path, overlap, crop = str(spec.extend), spec.video_overlap, spec.crop
    shown = (crop.width, crop.height) if crop else (spec.width, spec.height)
    wanted = WantedParts(spec.width, spec.height, Fit(spec.fit), spec.shape.fps, overlap, *shown, after=spec.before)
    place = spec.source.place("extend")
    with open_input(path, field=place) as file:
        try:
            clips = encode_video(file, wanted)
        except ValueError as error:
            raise SpecError(f"{place}: {shown_path(path)}: {error}") from None
    ids = [blobs.put(clip, mime=MP4_MIME) for clip in clips]
    return replace(given, source_clips=ids, source_frames=wanted.part_frames)


def state_from_video(path: Path, spec: JobSpec, settings: Settings) -> dict[str, Any]:
    """The state after the video `path`, `kind` and `payload`, made with the model of `spec` on this machine.

    Raises:
        SpecError: as `read_extension`. LTX2Error: the model cannot be loaded.
    """
    extension = read_extension(path, spec)
    from ltx2.engine import Engine  # slow to import

    engine = Engine.load(
        spec.model or settings.model,
        device=settings.device,
        precision=settings.precision,
        offload=settings.offload,
        text_encoder=settings.text_encoder,
        compiler=settings.compiler,
        encoder=spec.text_encoder,
    )
    pinned = extension.state.audio_conditioning_num_frames
    latents = engine.encode_sound(extension.sound, pinned, lead=lead_of(extension.sound, pinned))
    state = replace(extension.state, audio_latents=latents, audio_sample_rate=engine.audio_rate)
    envelope = state.to_continuation_state()
    return {"kind": envelope.kind, "payload": envelope.payload}
