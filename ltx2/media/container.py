"""Shared by clips and films: safe opening of a clip, checks of its streams, 24-bit sound."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, cast

import av
import numpy as np
from av import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream
from numpy.typing import NDArray

from ltx2.errors import MediaError

MP4_MIME = "video/mp4"
LAYOUTS = {1: "mono", 2: "stereo"}
MAX_PIXELS = 8192 * 4320  # of one picture; a header of a few bytes can declare far more

_FULL_SCALE = 2**23  # 24-bit sound


@contextmanager
def media_errors(what: str) -> Iterator[None]:
    """Turn errors of PyAV into a MediaError that begins with `what`."""
    try:
        yield
    except av.FFmpegError as error:
        raise MediaError(f"{what}: {error.strerror or error}") from error
    except (ValueError, OverflowError, OSError) as error:
        raise MediaError(f"{what}: {error}") from error


@dataclass(frozen=True, slots=True)
class ClipStreams:
    """An open clip: its container and its two streams, checked to be as `encode_clip` writes them."""

    container: InputContainer
    video: VideoStream
    audio: AudioStream

    @property
    def format(self) -> dict[str, object]:
        """Properties that must be equal in all clips of a film, by name."""
        video, audio = self.video.codec_context, self.audio.codec_context
        return {
            "width": video.width,
            "height": video.height,
            "codec parameters": video.extradata,
            "sample rate": audio.sample_rate,
            "channels": audio.channels,
        }


@contextmanager
def open_output(file: Path | BinaryIO, what: str, options: dict[str, str]) -> Iterator[OutputContainer]:
    """An MP4 to be written. what: begins the MediaErrors. options: of the muxer.

    Raises:
        MediaError: it cannot be opened, or not be completed at the end of the block.
    """
    with media_errors(what):
        place = str(file) if isinstance(file, Path) else file
        container = av.open(place, "w", format="mp4", options={"fflags": "+bitexact", **options})
    try:
        yield container
        with media_errors(what):
            container.close()
    finally:
        with suppress(av.FFmpegError):  # after an error, which must not be replaced by an error of close
            container.close()


@contextmanager
def open_clip(data: bytes) -> Iterator[ClipStreams]:
    """Open the bytes of one clip.

    Raises:
        MediaError: not a clip, or other streams than H.264 4:2:0 and FLAC.
    """
    with media_errors("not a readable clip"):
        # With a fixed format, FFmpeg does not follow playlists to other files.
        container = av.open(io.BytesIO(data), "r", format="mp4", metadata_errors="ignore")
    with container:
        yield _checked(container)


def _checked(container: InputContainer) -> ClipStreams:
    kinds = sorted((stream.type, stream.codec_context.name) for stream in container.streams if stream.codec_context)
    if len(container.streams) != 2 or kinds != [("audio", "flac"), ("video", "h264")]:
        raise MediaError(f"a clip must have one H.264 and one FLAC stream, not {kinds}")
    video, audio = container.streams.video[0], container.streams.audio[0]
    picture = video.codec_context
    if picture.pix_fmt != "yuv420p" or not 0 < picture.width * picture.height <= MAX_PIXELS:
        raise MediaError(
            f"a clip's picture must be yuv420p of at most {MAX_PIXELS} pixels, "
            f"not {picture.pix_fmt}, {picture.width}x{picture.height}"
        )
    depth = getattr(audio.format, "name", None)  # None if the header is damaged
    if depth != "s32" or audio.channels not in LAYOUTS or audio.sample_rate < 1:
        raise MediaError(f"a clip's sound must be 24 bit, mono or stereo, not {depth}, {audio.channels} channels")
    picture.options = {"max_pixels": str(MAX_PIXELS), "err_detect": "explode"}
    audio.codec_context.options = {"err_detect": "crccheck+explode"}
    return ClipStreams(container, video, audio)


def packet_time(packet: Packet[VideoStream]) -> tuple[Fraction, Fraction]:
    """Start and duration of a picture, in seconds. MediaError: the packet has none."""
    if packet.pts is None or not packet.duration or packet.duration < 0:
        raise MediaError("a picture has no time or duration")
    return packet.pts * packet.time_base, packet.duration * packet.time_base


def to_pcm24(sound: NDArray[np.floating]) -> AudioFrame:
    """Sound [samples, channels], clipped to [-1, 1], as a frame of 24-bit samples in the upper bits of s32."""
    levels = np.rint(sound.astype(np.float64) * _FULL_SCALE).clip(-_FULL_SCALE, _FULL_SCALE - 1)
    samples = (levels.astype(np.int32) << 8).reshape(1, -1)
    return AudioFrame.from_ndarray(samples, format="s32", layout=LAYOUTS[sound.shape[1]])


def from_pcm24(frame: AudioFrame) -> NDArray[np.float32]:
    """The samples of a decoded frame as float32 [samples, channels]; exact for 24-bit samples."""
    samples = cast(NDArray[np.int32], frame.to_ndarray()).reshape(frame.samples, -1)
    return (samples >> 8).astype(np.float32) / np.float32(_FULL_SCALE)
