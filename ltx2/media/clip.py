"""Clips: one segment's new frames and its whole sound, encoded once.

A clip is an MP4 with H.264 and FLAC, which browsers play. Sound is lossless at 24 bits, because 16 would add audible
noise to a quiet scene; the film's AAC is its only lossy encoding. The picture has no B-frames, begins with an IDR frame
and has headers that do not depend on its content, so clips of one size and rate join without re-encoding. Sound begins
at time 0, the picture at `picture_start`. The same input gives the same bytes on any number of cores.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

import av
import numpy as np
from av import AudioFrame, VideoFrame
from av.codec.context import ThreadType
from av.container import OutputContainer
from av.packet import Packet
from av.video.reformatter import (
    ColorPrimaries,
    ColorRange,
    Colorspace,
    ColorTrc,
    Interpolation,
    VideoReformatter,
)
from av.video.stream import VideoStream
from numpy.typing import NDArray

from ltx2.errors import MediaError
from ltx2.media.container import LAYOUTS, MAX_PIXELS, from_pcm24, media_errors, open_clip, packet_time, to_pcm24

MAX_CLIP_BYTES = 4 * 1024**3  # decoded: 257 frames of 1920x1088 take 1.6 GB

_THREADS = 2  # the bytes of x264 depend on this number
_FINEST_TICK = Fraction(1, 90_000)
_BT709 = 1  # AVCOL_SPC_BT709, as in the bitstream; swscale's `Colorspace` has another number for it
_EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.BITEXACT
# With MB-tree (and x264's SIMD code), one small clip in a hundred had different bytes in a long-running process.
_X264 = {"crf": "16", "preset": "fast", "bf": "0", "mbtree": "0"}


@dataclass(frozen=True, slots=True)
class Clip:
    """A decoded clip: uint8 RGB frames [k, H, W, 3], float32 sound [samples, channels] in [-1, 1].

    picture_start: seconds of sound before the first frame, with a resolution of at least 1/90,000 s.
    """

    frames: NDArray[np.uint8]
    sound: NDArray[np.float32]
    fps: Fraction
    audio_rate: int
    picture_start: Fraction


def encode_clip(
    frames: NDArray[np.uint8],
    sound: NDArray[np.float32],
    *,
    fps: Fraction,
    audio_rate: int,
    picture_start: Fraction,
) -> bytes:
    """Encode one segment as a clip.

    frames: uint8 RGB [k, H, W, 3], only the new ones; H and W even. sound: the segment's whole decoded sound, float
    [samples, 1 or 2], clipped to [-1, 1]. fps: frames per second. audio_rate: Hz. picture_start: seconds from the
    sound's start to the first frame, >= 0.

    Raises:
        MediaError: an invalid argument, or the encoder failed.
    """
    _check_picture(frames, fps, picture_start)
    _check_sound(sound, audio_rate)
    tick = _tick(fps)
    file = io.BytesIO()
    options = {"fflags": "+bitexact", "movie_timescale": str(tick.denominator)}
    with media_errors("cannot encode the clip"), av.open(file, "w", format="mp4", options=options) as container:
        video = _add_picture_stream(container, frames, fps, tick)
        audio = container.add_stream("flac", rate=audio_rate, format="s32", layout=LAYOUTS[sound.shape[1]])
        start, step = round(picture_start / tick), int(1 / fps / tick)
        for i, packet in enumerate(_encode_picture(video, frames, fps)):
            packet.time_base = tick
            packet.pts = packet.dts = start + i * step
            packet.duration = step
            container.mux(packet)
        frame = to_pcm24(sound)
        frame.sample_rate, frame.pts, frame.time_base = audio_rate, 0, Fraction(1, audio_rate)
        container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    return file.getvalue()


def read_clip(data: bytes, *, max_bytes: int = MAX_CLIP_BYTES) -> Clip:
    """Decode a clip.

    Raises:
        MediaError: not a clip, a damaged clip, or frames and sound of more than `max_bytes`.
    """
    with open_clip(data) as clip, media_errors("not a readable clip"):
        size = (clip.video.height, clip.video.width, 3)
        frames: list[NDArray[np.uint8]] = []
        sound: list[NDArray[np.float32]] = []
        times: list[tuple[Fraction, Fraction]] = []
        remaining = max_bytes
        reformatter = VideoReformatter()
        for packet in clip.container.demux(clip.video, clip.audio):
            if packet.stream is clip.video and packet.size:
                times.append(packet_time(cast("Packet[VideoStream]", packet)))
            for frame in packet.decode():
                if isinstance(frame, VideoFrame):
                    decoded = _to_rgb(reformatter, frame, size)
                    frames.append(decoded)
                    remaining -= decoded.nbytes
                elif isinstance(frame, AudioFrame):
                    samples = from_pcm24(frame)
                    sound.append(samples)
                    remaining -= samples.nbytes
                if remaining < 0:
                    raise MediaError(f"the clip has more than {max_bytes} decoded bytes")
        if not frames or not sound or len(frames) != len(times):
            raise MediaError(f"only {len(frames)} of the clip's {len(times)} pictures can be decoded")
        start, duration = times[0]
        return Clip(np.stack(frames), np.concatenate(sound), 1 / duration, clip.audio.sample_rate, start)


def _check_picture(frames: NDArray[np.uint8], fps: Fraction, picture_start: Fraction) -> None:
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
        raise MediaError(f"frames: must be uint8 [k, H, W, 3], not {_kind(frames)}")
    count, height, width, _ = frames.shape
    if not count or not 0 < height * width <= MAX_PIXELS or height % 2 or width % 2:
        raise MediaError(
            f"frames: must be one or more of even size and at most {MAX_PIXELS} pixels, not {count} of {width}x{height}"
        )
    if fps <= 0 or picture_start < 0:
        raise MediaError(f"fps {fps} must be positive and picture_start {picture_start} not negative")


def _check_sound(sound: NDArray[np.float32], audio_rate: int) -> None:
    if not isinstance(sound, np.ndarray) or sound.dtype.kind != "f" or sound.ndim != 2 or sound.shape[1] not in LAYOUTS:
        raise MediaError(f"sound: must be float [samples, 1 or 2], not {_kind(sound)}")
    if not len(sound) or not np.isfinite(sound).all():
        raise MediaError("sound: must have at least one sample, and only finite ones")
    if audio_rate < 1:
        raise MediaError(f"audio_rate: {audio_rate} must be positive")


def _kind(value: object) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__


def _tick(fps: Fraction) -> Fraction:
    """The track's time unit: at most 1/90,000 s, and a frame lasts a whole number of them."""
    return Fraction(1, fps.numerator * -(-_FINEST_TICK.denominator // fps.numerator))


def _add_picture_stream(
    container: OutputContainer, frames: NDArray[np.uint8], fps: Fraction, tick: Fraction
) -> VideoStream:
    stream = container.add_stream("libx264", rate=fps, options=dict(_X264))
    stream.height, stream.width = frames.shape[1:3]
    stream.time_base = tick
    context = stream.codec_context
    context.time_base = 1 / fps
    context.thread_count, context.thread_type = _THREADS, ThreadType.FRAME
    context.colorspace, context.color_range = _BT709, ColorRange.MPEG
    context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
    return stream


def _encode_picture(stream: VideoStream, frames: NDArray[np.uint8], fps: Fraction) -> Iterable[Packet[VideoStream]]:
    reformatter = VideoReformatter()
    for i, rgb in enumerate(frames):
        frame = reformatter.reformat(
            VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24"),
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            interpolation=_EXACT,
            threads=1,
        )
        frame.pts, frame.time_base = i, 1 / fps
        yield from stream.encode(frame)
    yield from stream.encode(None)


def _to_rgb(reformatter: VideoReformatter, frame: VideoFrame, size: tuple[int, int, int]) -> NDArray[np.uint8]:
    """The frame as RGB, by the colour matrix in its tags. MediaError: its size differs from the clip's."""
    if (frame.height, frame.width) != size[:2]:
        raise MediaError(f"a frame is {frame.width}x{frame.height} in a clip of {size[1]}x{size[0]}")
    rgb = reformatter.reformat(frame, format="rgb24", interpolation=_EXACT, threads=1)
    return cast("NDArray[np.uint8]", rgb.to_ndarray())
