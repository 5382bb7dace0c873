"""Reading an open clip for copying: its pictures as they are encoded, its sound decoded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import cast

import numpy as np
from av.audio.stream import AudioStream
from av.packet import Packet
from av.video.stream import VideoStream
from numpy.typing import NDArray

from ltx2.errors import MediaError
from ltx2.media.container import ClipStreams, from_pcm24, media_errors, packet_time
from ltx2.media.sources.samples import resampled


class SoundReader:
    """Decodes the first samples of a clip's sound while its pictures are read."""

    def __init__(self, clip: ClipStreams, samples: int, rate: int) -> None:
        """samples: how many are needed at `rate`, the film's; a few more may be decoded."""
        self._blocks = [np.zeros((0, clip.audio.channels), np.float32)]
        self._own, self._rate = clip.audio.sample_rate, rate
        self._missing = -(-samples * self._own // rate)

    def add(self, packet: Packet[AudioStream]) -> None:
        """Decode a packet of sound, if more of it is needed."""
        if self._missing <= 0:
            return
        for frame in packet.decode():
            self._blocks.append(from_pcm24(frame))
            self._missing -= frame.samples

    def samples(self) -> NDArray[np.float32]:
        """All that is decoded, float32 [samples, channels]; converted if its rate is not the film's."""
        return np.concatenate(list(resampled([np.concatenate(self._blocks)], self._own, self._rate)))


def check_format(clip: ClipStreams, expected: Mapping[str, object], *, any_rate: bool = False) -> None:
    """Check the properties that all clips of a film share.

    any_rate: its sound may have another rate, as that of a video with which the film begins.

    Raises:
        MediaError: one differs from `expected`.
    """
    for name, value in clip.format.items():
        if value != expected[name] and not (any_rate and name == "sample rate"):
            detail = "" if isinstance(value, bytes) else f" ({value}, not {expected[name]})"
            raise MediaError(f"differs from the first segment in {name}{detail}")


def pictures(clip: ClipStreams, frames: int, fps: Fraction, sound: SoundReader) -> Iterator[Packet[VideoStream]]:
    """The clip's pictures, in order; its sound goes to `sound`.

    Raises:
        MediaError: it has not exactly `frames` pictures, or they are not 1/fps apart: they are renumbered in the order
            of packets. The clip is damaged.
    """
    count, last = 0, None
    with media_errors("not a readable clip"):
        for packet in clip.container.demux(clip.video, clip.audio):
            if packet.stream is clip.video and packet.size:
                picture = cast("Packet[VideoStream]", packet)
                last = _checked_time(picture, last, fps)
                yield picture
                count += 1
            elif packet.stream is clip.audio:
                sound.add(cast("Packet[AudioStream]", packet))
    if count != frames:
        raise MediaError(f"{count} frames, but its timing has {frames}")


def _checked_time(packet: Packet[VideoStream], last: Fraction | None, fps: Fraction) -> Fraction:
    """The packet's time, which must be one frame after `last`."""
    time, duration = packet_time(packet)
    if duration != 1 / fps:
        raise MediaError(f"{1 / duration} frames per second, but its timing has {fps}")
    if last is not None and time != last + duration:
        raise MediaError(f"a picture at {float(time)} s follows one at {float(last)} s")
    return time
