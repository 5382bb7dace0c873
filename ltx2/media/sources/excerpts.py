"""Decodes an excerpt of a user's video: its end, its beginning, or its first frame.

Run as a program, it is a child process with limits: see `reader`. Only what is wanted is decoded, from the last
keyframe before it. Frames at the job's rate are the nearest ones of the video by time, but none is more than half a
frame early, so that a picture stays that a video with a variable rate shows for long. The last frame of an end is the
video's last picture, the first one of a beginning its first. Memory holds two decoded pictures and the result.
"""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from typing import IO

import av
import numpy as np
from av import AudioFrame, VideoFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from ltx2.media.limited_child import run_limited
from ltx2.media.sources.opening import opened, sound_of, video_of
from ltx2.media.sources.pictures import Fit, Fitter
from ltx2.media.sources.samples import Sound, placed, resampled

_FIRST_PACKETS = 32  # among which the first picture is, whatever the order in which they are stored
_DECODER_START_S = Fraction(1, 2)  # of sound, until a decoder that starts in the middle is right
_EDGE_S = Fraction(1, 20)  # of sound around what is wanted, for the resampler
_AFTER_S = Fraction(1, 10)  # of sound after the last frame


@dataclass(frozen=True, slots=True)
class Wanted:
    """The frames and the sound that are wanted of a video's end, or of its beginning.

    frames: how many, at `fps`, of `width` x `height`. before_s: seconds of sound before the first frame of an end.
    rate: Hz.
    """

    width: int
    height: int
    fit: Fit
    fps: Fraction
    frames: int
    before_s: Fraction
    rate: int


@dataclass(frozen=True, slots=True)
class Excerpt:
    """A part of a video. frames: uint8 RGB `[frames, H, W, 3]`. sound: `[samples, 2]` at the rate that was wanted.

    available: how many frames the video has at the wanted rate. before: samples of `sound` before the first frame;
    fewer than wanted where the video begins later.
    """

    frames: NDArray[np.uint8]
    sound: Sound
    available: int
    before: int


def decode_ending(file: IO[bytes], wanted: Wanted) -> Excerpt:
    """Decode the end of a video.

    Raises:
        ValueError: not a video, a damaged one, one that is too short, or HDR.
    """
    return _decoded(file, wanted, at_end=True)


def decode_beginning(file: IO[bytes], wanted: Wanted) -> Excerpt:
    """Decode the beginning of a video. ValueError: as `decode_ending`."""
    return _decoded(file, wanted, at_end=False)


@dataclass(frozen=True, slots=True)
class Span:
    """The times of a video's first and last picture, in seconds, and when the last one ends, if the file says so."""

    first: Fraction
    last: Fraction
    end: Fraction

    def last_frame(self, fps: Fraction) -> Fraction:
        """The time of the last frame at this rate: of the last picture, or later if that is shown for longer."""
        return max(self.last, self.end - 1 / fps)


def _decoded(file: IO[bytes], wanted: Wanted, *, at_end: bool) -> Excerpt:
    with opened(file) as container:
        video = video_of(container)
        span = span_of(container, video)
        first, last = span.first, span.last_frame(wanted.fps)
        available = frames_at(wanted.fps, first, last)
        if available < wanted.frames:
            count = f"{available} frame{'s' if available > 1 else ''} at {float(wanted.fps):g} per second"
            raise ValueError(f"it is too short: {count}, at least {wanted.frames} are needed (the overlap)")
        if at_end:
            times = [last - Fraction(left) / wanted.fps for left in reversed(range(wanted.frames))]
        else:
            times = beginning_times(wanted.fps, wanted.frames, first, last)
        frames = _frames(container, video, times, span, wanted, to_end=at_end)
        before = int(min(wanted.before_s, max(Fraction(0), times[0] - first)) * wanted.rate)
        sound = _sound(container, times[0], times[-1] + 1 / wanted.fps, before, wanted.rate)
    return Excerpt(frames, sound, available, before)


def decode_first_frame(file: IO[bytes], width: int, height: int) -> NDArray[np.uint8]:
    """The first frame of a video, scaled and cropped. ValueError: as `decode_ending`."""
    with opened(file) as container:
        video = video_of(container)
        fitted = Fitter(width, height, Fit.CROP, video.codec_context.sample_aspect_ratio)
        for frame in container.decode(video):
            return fitted(frame)
    raise ValueError("it has no picture that can be decoded")


def _check_whole(container: InputContainer) -> None:
    """Refuse a file that ends before something that its index names. WebM and MKV without their end have no index."""
    streams = [*container.streams.video, *container.streams.audio] if container.format.name.startswith("mov") else []
    if any(entry.pos + entry.size > container.size for stream in streams for entry in stream.index_entries):
        raise ValueError("damaged: the file ends too early, as after an interrupted download")


def frames_at(fps: Fraction, first: Fraction, last: Fraction) -> int:
    """How many frames a video has at this rate, of which the first and the last have these times, in seconds."""
    return int((last - first) * fps + Fraction(1, 4)) + 1


def beginning_times(fps: Fraction, count: int, first: Fraction, last: Fraction) -> list[Fraction]:
    """The times of the first `count` frames at this rate, of as many as `frames_at` says at most."""
    return [min(last, first + Fraction(number) / fps) for number in range(count)]


def span_of(container: InputContainer, video: VideoStream) -> Span:
    """The times of a video, from its packets. ValueError: a damaged video."""
    _check_whole(container)
    first = _first(container, video)
    declared = _declared_end(container, video)
    _seek(container, video, declared)
    found = _times(container, video)
    if not found:  # the declared end is wrong
        _seek(container, video, None)
        found = _times(container, video)
    if first is None or not found:
        raise ValueError("it has no picture that can be decoded")
    last, end = (max(times) for times in zip(*found, strict=True))
    if video.duration and declared is not None:
        end = min(end, declared)
    return Span(first, last, max(last, end))


def _first(container: InputContainer, video: VideoStream) -> Fraction | None:
    """The time of the first picture; after a cut, those that are shown before the first keyframe need what was cut."""
    key, shown = None, list[Fraction]()
    for packet in container.demux(video):
        if not packet.size or packet.pts is None:
            continue
        time = packet.pts * packet.time_base
        key = time if key is None and packet.is_keyframe else key
        if not packet.is_discard:
            shown.append(time)
        if len(shown) == _FIRST_PACKETS:
            break
    return min((time for time in shown if key is None or time >= key), default=min(shown, default=None))


def _times(container: InputContainer, video: VideoStream) -> list[tuple[Fraction, Fraction]]:
    """From when and until when pictures are shown, from here on; a file may not say for how long one is."""
    return [
        (packet.pts * packet.time_base, (packet.pts + max(0, packet.duration or 0)) * packet.time_base)
        for packet in container.demux(video)
        if packet.size and not packet.is_discard and packet.pts is not None
    ]


def _declared_end(container: InputContainer, video: VideoStream) -> Fraction | None:
    if video.duration and video.time_base:
        return ((video.start_time or 0) + video.duration) * video.time_base
    return Fraction(container.duration, av.time_base) if container.duration else None


def _seek(container: InputContainer, stream: VideoStream | AudioStream, time: Fraction | None) -> None:
    """Go to the last keyframe up to `time`, or to the start."""
    start = stream.start_time or 0
    try:
        if time is not None and stream.time_base:
            container.seek(max(start, int(time / stream.time_base)), stream=stream)
            return
    except av.FFmpegError:
        pass  # a file without an index, or with a wrong one
    try:
        container.seek(start, stream=stream)
    except av.FFmpegError:
        raise ValueError("damaged: its times are wrong, so that nothing in it can be found") from None


def _frames(
    container: InputContainer,
    video: VideoStream,
    times: list[Fraction],
    span: Span,
    wanted: Wanted,
    *,
    to_end: bool,
) -> NDArray[np.uint8]:
    """The picture that is nearest to each of the `times`, which rise. to_end: later ones must be whole, too."""
    aspect = video.codec_context.sample_aspect_ratio
    fitted = Fitter(wanted.width, wanted.height, wanted.fit, aspect)
    for start in (times[0], None):
        _seek(container, video, start)
        seen: list[Fraction] = []
        pictures = _noted(decoded_pictures(container, video), seen)
        frames = list(nearest(pictures, iter(times), span, wanted.fps, fitted))
        if to_end:
            deque(pictures, maxlen=0)  # a damaged picture after the last one that is needed is an error, too
        if seen and (start is None or seen[0] <= max(times[0], span.first)):
            break  # otherwise the first pictures after a keyframe could not be decoded: from the start on
    if not seen:
        raise ValueError("its last pictures cannot be decoded")
    if seen[-1] < min(times[-1], span.last):
        raise ValueError(f"damaged: its pictures end at {float(seen[-1]):.2f} s, not at {float(span.last):.2f} s")
    return np.stack(frames)


def nearest(
    decoded: Iterator[tuple[Fraction, VideoFrame]], times: Iterator[Fraction], span: Span, fps: Fraction, fitted: Fitter
) -> Iterator[NDArray[np.uint8]]:
    """The picture that is nearest to each of the `times`, which rise, but at most half a frame of `fps` early.

    It is converted once. None after the end of the last one, or of what can be decoded.
    """
    pending = next(times, None)
    shown: tuple[Fraction, VideoFrame] | None = None
    for following in chain(decoded, [None]):
        if shown is not None:
            if following is None:
                until = span.end if shown[0] >= span.last else shown[0]
            else:
                until = max((shown[0] + following[0]) / 2, following[0] - 1 / (2 * fps))
            if pending is not None and pending <= until:
                pixels = fitted(shown[1])
                while pending is not None and pending <= until:
                    yield pixels
                    pending = next(times, None)
            if pending is None:
                return
        shown = following


def _noted(
    decoded: Iterator[tuple[Fraction, VideoFrame]], times: list[Fraction]
) -> Iterator[tuple[Fraction, VideoFrame]]:
    """The same pictures; appends their times to `times`."""
    for time, picture in decoded:
        times.append(time)
        yield time, picture


def decoded_pictures(container: InputContainer, video: VideoStream) -> Iterator[tuple[Fraction, VideoFrame]]:
    """The pictures from here on with their times, in seconds. ValueError: one is damaged, or has no time."""
    for frame in container.decode(video):
        if frame.pts is None or frame.time_base is None:
            raise ValueError("its pictures have no times")
        if frame.is_corrupt:
            raise ValueError(f"damaged: the picture at {float(frame.pts * frame.time_base):.2f} s")
        yield frame.pts * frame.time_base, frame


def _sound(container: InputContainer, start: Fraction, end: Fraction, before: int, rate: int) -> Sound:
    """The sound from `before` samples before `start` to a little after `end`; silence where there is none."""
    begin = start - Fraction(before, rate)
    count = round((end + _AFTER_S - begin) * rate)
    stream = sound_of(container)
    found = None
    if stream is not None:
        _seek(container, stream, begin - _EDGE_S - _DECODER_START_S)
        found = placed(_heard(container, stream), begin - _EDGE_S, end + _AFTER_S + _EDGE_S)
    if found is None:
        return np.zeros((count, 2), np.float32)
    edge = round(_EDGE_S * rate)
    samples = np.concatenate([*resampled([found[0]], found[1], rate), np.zeros((edge + count, 2), np.float32)])
    return samples[edge : edge + count]


def _heard(container: InputContainer, stream: AudioStream) -> Iterator[AudioFrame]:
    return (frame for frame in container.decode(stream) if isinstance(frame, AudioFrame))


def _decode(arguments: Sequence[str]) -> bytes:
    if arguments[0] == "first":
        return decode_first_frame(sys.stdin.buffer, int(arguments[1]), int(arguments[2])).tobytes()
    which, width, height, fit, fps, frames, before_s, rate = arguments
    wanted = Wanted(int(width), int(height), Fit(fit), Fraction(fps), int(frames), Fraction(before_s), int(rate))
    part = _decoded(sys.stdin.buffer, wanted, at_end=which == "end")
    head = json.dumps([part.available, part.before, len(part.sound)]).encode() + b"\n"
    return head + part.frames.tobytes() + part.sound.astype("<f4").tobytes()


if __name__ == "__main__":
    sys.exit(run_limited(_decode))
