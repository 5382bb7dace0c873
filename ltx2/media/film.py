"""Joining clips to a film: pictures are copied, sound is composed by absolute time and encoded once.

One clip is in memory at a time, so memory use does not grow with the film. The file is renamed to its final name when
it is complete. What a killed process has left is deleted when the same film is joined again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from av import AudioFrame
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream
from numpy.typing import NDArray

from ltx2.errors import MediaError
from ltx2.media.clip_streams import SoundReader, check_format, pictures
from ltx2.media.container import LAYOUTS, ClipStreams, media_errors, open_clip, open_output
from ltx2.media.sound import SoundComposer
from ltx2.media.sources.slices import Blocks, Track
from ltx2.media.temporary import partial_file
from ltx2.timeline import FilmPart, film_frames, film_samples, sound_spans

_AAC_BITS_PER_CHANNEL = 160_000  # per second; with 96,000 FFmpeg's encoder distorts the first block at 48 kHz
_AAC = {"aac_is": "0"}  # intensity stereo does not keep the phases of the channels
_WRITING = "cannot write the film"


@dataclass(frozen=True, slots=True)
class FilmInfo:
    """A finished film. audio_samples: per channel, before AAC pads the last block. sha256: of the file, hex digits."""

    width: int
    height: int
    fps: Fraction
    frames: int
    duration_s: float
    audio_sample_rate: int
    audio_samples: int
    sha256: str


def join_film(
    clips: Iterable[bytes],
    timings: Sequence[FilmPart],
    out: Path,
    *,
    title: str | None = None,
    track: Track | None = None,
    rate: int | None = None,
) -> FilmInfo:
    """Join one clip per timing to the MP4 `out` (H.264, AAC, faststart), which is replaced if it exists.

    title: is shown by players. track: sound that replaces that of the clips, with silence after its end. rate: of the
    film's sound in Hz, if the film has parts of a video, whose sound may have another; else that of the clips.
    Errors of `clips` pass through. After any error, `out` is unchanged.

    Raises:
        MediaError: a clip is missing, unreadable, differs from the first one (size, codec parameters, sound rate,
            channels) or from its timing (frames, rate, too little sound); the message names the segment. Or `out`
            cannot be written.
        TimelineError: the timings are not consecutive.
    """
    out = out.absolute()
    with ExitStack() as stack:
        with media_errors(_WRITING):
            part = stack.enter_context(partial_file(out))
        with open_output(part, _WRITING, {"movflags": "+faststart"}) as container:
            if title is not None:
                container.metadata["title"] = title
            film = _write(container, clips, timings, track, rate)
        with media_errors(_WRITING):
            sha256 = _sync_and_hash(part)
            os.replace(part, out)
    return film.info(sha256)


def _write(
    container: OutputContainer,
    clips: Iterable[bytes],
    timings: Sequence[FilmPart],
    track: Track | None,
    rate: int | None,
) -> _Film:
    film: _Film | None = None
    remaining = iter(clips)
    for i, timing in enumerate(timings):
        data = next(remaining, None)
        try:
            if data is None:
                raise MediaError(f"no clip: {len(timings)} clips expected, {i} given")
            with open_clip(data) as clip:
                film = film or _Film(container, timings, clip, track, rate)
                film.add(i, clip)
        except MediaError as error:
            named = f"segment {timing.index}" if timing.index >= 0 else f"part {i} of the film, from a video"
            raise MediaError(f"{named}: {error}") from error
    if film is None or next(remaining, None) is not None:
        raise MediaError(f"a film needs at least one segment and one clip per segment; {len(timings)} segments given")
    film.finish()
    return film


def _sync_and_hash(path: Path) -> str:
    """Flush the file to disk and return its SHA-256."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Film:
    """A film that is being written: its streams and their numbers of frames and samples."""

    def __init__(
        self,
        container: OutputContainer,
        timings: Sequence[FilmPart],
        first: ClipStreams,
        track: Track | None = None,
        rate: int | None = None,
    ) -> None:
        """Add both streams with the properties of the first clip; write nothing."""
        self._container = container
        self._timings = timings
        self._fps = timings[0].fps
        self._format = first.format
        self._rate = rate or first.audio.sample_rate
        self._any_rate = rate is not None
        self._spans = sound_spans(timings, self._rate)
        samples = film_samples(film_frames(timings), self._fps, self._rate)
        self._composer = SoundComposer(self._spans, samples, first.audio.channels)
        self._given = Blocks(track.at(self._rate)) if track is not None else None
        self._frames = self._samples = 0
        with media_errors(_WRITING):
            container.options["movie_timescale"] = str(self._rate)  # the sound's length is exact to the sample
            self._video: VideoStream = container.add_stream_from_template(first.video, opaque=True)
            self._video.time_base = 1 / self._fps
            self._audio = add_sound_stream(container, self._rate, first.audio.channels)

    def add(self, i: int, clip: ClipStreams) -> None:
        """Append the clip of the i-th timing."""
        check_format(clip, self._format, any_rate=self._any_rate)
        span = self._spans[i]
        sound = SoundReader(clip, span.source_start + span.film_end - span.film_start, self._rate)
        for number, picture in enumerate(pictures(clip, self._timings[i].new_frames, self._fps, sound)):
            if number < self._timings[i].shown_frames:  # no picture refers to a later one
                self._mux_picture(picture)
        block = self._composer.add(i, sound.samples())
        self._encode_sound(block if self._given is None else self._given.take(len(block)))

    def finish(self) -> None:
        """Flush the encoder."""
        with media_errors(_WRITING):
            self._container.mux(self._audio.encode(None))

    def info(self, sha256: str) -> FilmInfo:
        """A description of the finished film."""
        return FilmInfo(
            width=self._video.width,
            height=self._video.height,
            fps=self._fps,
            frames=self._frames,
            duration_s=float(self._frames / self._fps),
            audio_sample_rate=self._rate,
            audio_samples=self._samples,
            sha256=sha256,
        )

    def _mux_picture(self, packet: Packet[VideoStream]) -> None:
        packet.stream = self._video
        packet.time_base = 1 / self._fps
        packet.pts = packet.dts = self._frames
        packet.duration = 1
        self._frames += 1
        with media_errors(_WRITING):
            self._container.mux(packet)

    def _encode_sound(self, block: NDArray[np.float32]) -> None:
        if not len(block):
            return
        frame = sound_frame(block, self._rate, self._samples)
        self._samples += len(block)
        with media_errors(_WRITING):
            self._container.mux(self._audio.encode(frame))


def add_sound_stream(container: OutputContainer, rate: int, channels: int) -> AudioStream:
    """Add the AAC stream of a film: `rate` Hz, 1 or 2 channels."""
    bit_rate, layout = _AAC_BITS_PER_CHANNEL * channels, LAYOUTS[channels]
    return container.add_stream("aac", rate=rate, options=dict(_AAC), bit_rate=bit_rate, format="fltp", layout=layout)


def sound_frame(block: NDArray[np.float32], rate: int, position: int) -> AudioFrame:
    """Film sound [samples, channels] from sample `position` on, clipped to [-1, 1], as the AAC encoder takes it."""
    planes = np.ascontiguousarray(block.clip(-1, 1).T)
    frame = AudioFrame.from_ndarray(planes, format="fltp", layout=LAYOUTS[block.shape[1]])
    frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), position
    return frame
