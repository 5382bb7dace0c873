"""One segment's clip: its new frames and its whole sound, encoded once.

An MP4 with H.264 and FLAC, which browsers play. The sound is kept to 24 bits (16 would add noise that a quiet scene
reveals), so the film's AAC is its only lossy encoding. The picture has no B-frames, begins with an IDR frame and has
headers that do not depend on its content: clips of one size and rate join without re-encoding. Sound begins at time 0,
the picture at `picture_start`. The same input gives the same bytes whatever the number of cores.
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

_THREADS = 2  # x264 gives other bytes for other numbers
_FINEST_TICK = Fraction(1, 90_000)
_BT709 = 1  # AVCOL_SPC_BT709, as the bitstream writes it; swscale's `Colorspace` counts otherwise
_EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.BITEXACT
# With MB-tree (and x264's SIMD code) one small clip in a hundred came out as other bytes in a process long in use.
_X264 = {"crf": "16", "preset": "fast", "bf": "0", "mbtree": "0"}


@dataclass(frozen=True, slots=True)
class Clip:
    """A decoded clip: uint8 RGB frames [k, H, W, 3], float32 sound [samples, channels] in [-1, 1].

    picture_start: seconds of sound before the first frame, to 1/90,000 s.
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
    """Encodes one segment as a clip.

    frames: uint8 RGB [k, H, W, 3], only the new ones, H and W even. sound: the segment's whole decode, float
    [samples, 1 or 2], clipped to [-1, 1]. fps: frames per second. audio_rate: Hz. picture_start: seconds from the
    sound's start to the first frame, >= 0. MediaError: anything else, or a failure of the encoder.
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
    """Decodes a clip. MediaError: not a clip, a damaged one, or one whose frames or sound exceed `max_bytes`."""
    with open_clip(data) as clip, media_errors("not a readable clip"):
        size = (clip.video.height, clip.video.width, 3)
        frames: list[NDArray[np.uint8]] = []
        sound: list[NDArray[np.float32]] = []
        times: list[tuple[Fraction, Fraction]] = []
        room = max_bytes
        reformatter = VideoReformatter()
        for packet in clip.container.demux(clip.video, clip.audio):
            if packet.stream is clip.video and packet.size:
                times.append(packet_time(cast("Packet[VideoStream]", packet)))
            for frame in packet.decode():
                if isinstance(frame, VideoFrame):
                    decoded = _to_rgb(reformatter, frame, size)
                    frames.append(decoded)
                    room -= decoded.nbytes
                elif isinstance(frame, AudioFrame):
                    samples = from_pcm24(frame)
                    sound.append(samples)
                    room -= samples.nbytes
                if room < 0:
                    raise MediaError(f"a clip of more than {max_bytes} decoded bytes")
        if not frames or not sound or len(frames) != len(times):
            raise MediaError(f"a clip with {len(times)} pictures, of which {len(frames)} can be decoded")
        start, duration = times[0]
        return Clip(np.stack(frames), np.concatenate(sound), 1 / duration, clip.audio.sample_rate, start)


def _check_picture(frames: NDArray[np.uint8], fps: Fraction, picture_start: Fraction) -> None:
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
        raise MediaError(f"frames: uint8 [k, H, W, 3] is asked, not {_kind(frames)}")
    count, height, width, _ = frames.shape
    if not count or not 0 < height * width <= MAX_PIXELS or height % 2 or width % 2:
        raise MediaError(
            f"frames: one or more of even size and at most {MAX_PIXELS} pixels, not {count} of {width}x{height}"
        )
    if fps <= 0 or picture_start < 0:
        raise MediaError(f"fps {fps} must be positive, picture_start {picture_start} not negative")


def _check_sound(sound: NDArray[np.float32], audio_rate: int) -> None:
    if not isinstance(sound, np.ndarray) or sound.dtype.kind != "f" or sound.ndim != 2 or sound.shape[1] not in LAYOUTS:
        raise MediaError(f"sound: float [samples, 1 or 2] is asked, not {_kind(sound)}")
    if not len(sound) or not np.isfinite(sound).all():
        raise MediaError("sound: at least one sample, all of them finite, is asked")
    if audio_rate < 1:
        raise MediaError(f"audio_rate: {audio_rate} is not a positive number of Hz")


def _kind(value: object) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__


def _tick(fps: Fraction) -> Fraction:
    """The track's time unit: a frame lasts a whole number of them, and each is 1/90,000 s or less."""
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
    """The frame as RGB, by the matrix that its own tags name. MediaError: a size other than the clip's."""
    if (frame.height, frame.width) != size[:2]:
        raise MediaError(f"a frame of {frame.width}x{frame.height} in a clip of {size[1]}x{size[0]}")
    rgb = reformatter.reformat(frame, format="rgb24", interpolation=_EXACT, threads=1)
    return cast("NDArray[np.uint8]", rgb.to_ndarray())
