"""Small videos in memory, in which every frame shows its number."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT, FPS, RATE = 64, 32, 24, 48_000
TICK = Fraction(1, 1000)


def numbered(count: int, width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    """Up to 50 frames `[count, H, W, 3]`: grey levels that are 3 higher in each frame, bright in the upper left."""
    frames = np.empty((count, height, width, 3), np.uint8)
    frames[:] = (16 + 3 * np.arange(count, dtype=np.uint8))[:, None, None, None]
    frames[:, : height // 2, : width // 2] = 190
    return frames


def numbers(frames: NDArray[np.uint8]) -> list[int]:
    """The number that each frame shows, from the lower right corner."""
    levels = frames[:, frames.shape[1] * 3 // 4, frames.shape[2] * 3 // 4].astype(float).mean(axis=1)
    return [round((level - 16) / 3) for level in levels]


def tone(seconds: float, *, rate: int = RATE, hertz: float = 440.0, channels: int = 2) -> NDArray[np.float32]:
    """A tone `[channels, samples]`; every second channel is silent."""
    wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)
    return np.stack([wave if channel % 2 == 0 else 0 * wave for channel in range(channels)]).astype(np.float32)


def video(
    frames: NDArray[np.uint8] | None,
    *,
    kind: str = "mp4",
    codec: str = "libx264",
    fps: Fraction = Fraction(FPS),
    times: Sequence[float] | None = None,
    pixels: str = "yuv420p",
    aspect: Fraction | None = None,
    sound: NDArray[np.float32] | None = None,
    sound_codec: str = "aac",
    rate: int = RATE,
    layout: str | None = None,
    settings: dict[str, str] | None = None,
    container_settings: dict[str, str] | None = None,
    colours: dict[str, Any] | None = None,
) -> bytes:
    """A file with these frames, shown at `times` (default: `fps`), and this sound `[channels, samples]`."""
    file = io.BytesIO()
    with av.open(file, "w", format=kind, options=container_settings or {}) as container:
        stream: Any = None
        if frames is not None:
            options = {"crf": "8", "preset": "ultrafast"} if codec == "libx264" else {}
            stream = container.add_stream(codec, rate=fps, options=options | (settings or {}))
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = pixels
            stream.codec_context.time_base = TICK if times is not None else 1 / fps
            if aspect is not None:
                stream.codec_context.sample_aspect_ratio = aspect
            for name, value in (colours or {}).items():
                setattr(stream.codec_context, name, value)
        audio: Any = None
        if sound is not None:
            layout = layout or {1: "mono", 2: "stereo", 6: "5.1"}[len(sound)]
            audio = container.add_stream(sound_codec, rate=rate, layout=layout)
        for number, image in enumerate(frames if frames is not None else ()):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = round(times[number] / TICK) if times is not None else number
            frame.time_base = TICK if times is not None else 1 / fps
            container.mux(stream.encode(frame))
        if stream is not None:
            container.mux(stream.encode(None))
        if audio is not None and sound is not None:
            frame_a = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound), format="fltp", layout=layout)
            frame_a.sample_rate, frame_a.pts, frame_a.time_base = rate, 0, Fraction(1, rate)
            resampler = av.AudioResampler(format=audio.codec_context.format, layout=layout, rate=rate)
            for part in resampler.resample(frame_a):
                container.mux(audio.encode(part))
            container.mux(audio.encode(None))
    return file.getvalue()


def remuxed(data: bytes, change: Callable[[list[Any]], list[Any]], *, kind: str) -> bytes:
    """The packets of a file in another one, after `change` to them; `packet.stream.type` is video or audio."""
    file = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(file, "w", format=kind) as container:
        streams = {stream: container.add_stream_from_template(stream) for stream in source.streams}
        for packet in change([packet for packet in source.demux() if packet.size]):
            packet.stream = streams[packet.stream]
            container.mux(packet)
    return file.getvalue()


def held(data: bytes, *, kind: str = "mp4") -> bytes:
    """The same video, whose last picture is shown for half a second."""

    def longer(packets: list[Any]) -> list[Any]:
        last = [packet for packet in packets if packet.stream.type == "video"][-1]
        last.duration = round(Fraction(1, 2) / last.time_base)
        return packets

    return remuxed(data, longer, kind=kind)


def cut_in_an_open_group() -> bytes:
    """Frames 12 to 39, with pictures before them in the file that refer to what was cut off."""
    settings = {"x264-params": "open-gop=1:keyint=12:min-keyint=12:scenecut=0:bframes=3:b-adapt=0", "preset": "medium"}

    def cut(packets: list[Any]) -> list[Any]:
        return packets[[number for number, packet in enumerate(packets) if packet.is_keyframe][1] :]

    return remuxed(video(numbered(40), settings=settings, kind="matroska"), cut, kind="matroska")


def sound_in(data: bytes) -> NDArray[np.float32]:
    """All sound of a file, `[channels, samples]`."""
    with av.open(io.BytesIO(data)) as container:
        blocks = [frame.to_ndarray() for frame in container.decode(audio=0)]
    return np.concatenate(blocks, axis=1).astype(np.float32)


def frames_in(data: bytes) -> NDArray[np.uint8]:
    """All frames of a file, `[frames, H, W, 3]`."""
    with av.open(io.BytesIO(data)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
