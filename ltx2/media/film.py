"""Joining clips to a film: pictures are copied, sound is composed by absolute time and encoded once.

One clip is in memory at a time, so memory use does not grow with the film. The file is renamed to its final name when
it is complete. What a killed process has left is deleted when the same film is joined again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av import AudioFrame
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream
from numpy.typing import NDArray

from ltx2.errors import MediaError
from ltx2.media.container import LAYOUTS, ClipStreams, from_pcm24, media_errors, open_clip, packet_time
from ltx2.media.sound import SoundComposer
from ltx2.media.temporary import partial_file
from ltx2.timeline import SegmentTiming, SoundSpan, film_frames, film_samples, sound_spans

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
    clips: Iterable[bytes], timings: Sequence[SegmentTiming], out: Path, *, title: str | None = None
) -> FilmInfo:
    """Join one clip per timing to the MP4 `out` (H.264, AAC, faststart), which is replaced if it exists.

    title: is shown by players. Errors of `clips` pass through. After any error, `out` is unchanged.

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
        with _output(part) as container:
            if title is not None:
                container.metadata["title"] = title
            film = _write(container, clips, timings)
        with media_errors(_WRITING):
            sha256 = _sync_and_hash(part)
            os.replace(part, out)
    return film.info(sha256)


@contextmanager
def _output(path: Path) -> Iterator[OutputContainer]:
    with media_errors(_WRITING):
        container = av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact", "movflags": "+faststart"})
    try:
        yield container
        with media_errors(_WRITING):
            container.close()
    finally:
        with suppress(av.FFmpegError):  # after an error, which must not be replaced by an error of close
            container.close()


def _write(container: OutputContainer, clips: Iterable[bytes], timings: Sequence[SegmentTiming]) -> _Film:
    film: _Film | None = None
    remaining = iter(clips)
    for i, timing in enumerate(timings):
        data = next(remaining, None)
        try:
            if data is None:
                raise MediaError(f"no clip: {len(timings)} clips expected, {i} given")
            with open_clip(data) as clip:
                film = film or _Film(container, timings, clip)
                film.add(i, clip)
        except MediaError as error:
            raise MediaError(f"segment {timing.index}: {error}") from error
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

    def __init__(self, container: OutputContainer, timings: Sequence[SegmentTiming], first: ClipStreams) -> None:
        """Add both streams with the properties of the first clip; write nothing."""
        self._container = container
        self._timings = timings
        self._fps = timings[0].shape.fps
        self._format = first.format
        self._rate, self._layout = first.audio.sample_rate, LAYOUTS[first.audio.channels]
        self._spans = sound_spans(timings, self._rate)
        samples = film_samples(film_frames(timings), self._fps, self._rate)
        self._composer = SoundComposer(self._spans, samples, first.audio.channels)
        self._frames = self._samples = 0
        bit_rate = _AAC_BITS_PER_CHANNEL * first.audio.channels
        with media_errors(_WRITING):
            container.options["movie_timescale"] = str(self._rate)  # the sound's length is exact to the sample
            self._video: VideoStream = container.add_stream_from_template(first.video, opaque=True)
            self._video.time_base = 1 / self._fps
            self._audio: AudioStream = container.add_stream(
                "aac", rate=self._rate, options=dict(_AAC), bit_rate=bit_rate, format="fltp", layout=self._layout
            )

    def add(self, i: int, clip: ClipStreams) -> None:
        """Append the clip of the i-th timing."""
        for name, value in clip.format.items():
            if value != self._format[name]:
                detail = "" if isinstance(value, bytes) else f" ({value}, not {self._format[name]})"
                raise MediaError(f"differs from the first segment in {name}{detail}")
        sound = self._copy_picture(clip, self._timings[i].new_frames, self._spans[i])
        self._encode_sound(self._composer.add(i, sound))

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

    def _copy_picture(self, clip: ClipStreams, frames: int, span: SoundSpan) -> NDArray[np.float32]:
        """Copy the clip's `frames` frames; return its sound, decoded as far as `span` needs it."""
        sound = [np.zeros((0, clip.audio.channels), np.float32)]
        missing = span.source_start + span.film_end - span.film_start
        copied, last = 0, None
        with media_errors("not a readable clip"):
            for packet in clip.container.demux(clip.video, clip.audio):
                if packet.stream is clip.video and packet.size:
                    picture = cast("Packet[VideoStream]", packet)
                    last = self._check_order(picture, last)
                    self._mux_picture(picture)
                    copied += 1
                elif packet.stream is clip.audio and missing > 0:
                    for frame in cast("Packet[AudioStream]", packet).decode():
                        sound.append(from_pcm24(frame))
                        missing -= frame.samples
        if copied != frames:
            raise MediaError(f"{copied} frames, but its timing has {frames}")
        return np.concatenate(sound)

    def _check_order(self, packet: Packet[VideoStream], last: Fraction | None) -> Fraction:
        """The packet's time, which must be one frame after `last`: frames are renumbered in the order of packets."""
        time, duration = packet_time(packet)
        if duration != 1 / self._fps:
            raise MediaError(f"{1 / duration} frames per second, but its timing has {self._fps}")
        if last is not None and time != last + duration:
            raise MediaError(f"a picture at {float(time)} s follows one at {float(last)} s")
        return time

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
        planes = np.ascontiguousarray(block.clip(-1, 1).T)
        frame = AudioFrame.from_ndarray(planes, format="fltp", layout=self._layout)
        frame.sample_rate, frame.time_base, frame.pts = self._rate, Fraction(1, self._rate), self._samples
        self._samples += len(block)
        with media_errors(_WRITING):
            self._container.mux(self._audio.encode(frame))
