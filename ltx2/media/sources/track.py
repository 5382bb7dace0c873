"""Decodes the sound of a user's file. Run as a program, it is a child process with limits: see `reader`.

The result is a FLAC: stereo, 24 bits, at the file's own rate. It begins with the file's first sample, or with its first
picture if that is earlier. Neither needs to be at time 0: those of an MP3 come after samples that are to be skipped.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import chain
from typing import IO

import numpy as np
from av import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer

from ltx2.errors import MediaError
from ltx2.media.container import media_errors
from ltx2.media.limited_child import run_limited
from ltx2.media.sound_file import encode_flac
from ltx2.media.sources.opening import main_video, opened, reading_errors, sound_of
from ltx2.media.sources.samples import RESYNC_S, Sound, Stereo

RATES = range(8_000, 192_001)
LONGEST_S = 4 * 3600
LARGEST_BYTES = 512 * 2**20
_SILENCE_SAMPLES = 2**16  # of one block


def decode_track(file: IO[bytes]) -> bytes:
    """The sound of a file as FLAC.

    Raises:
        ValueError: not a sound or video file, without sound, damaged, too long or too large.
    """
    track = decode_sound(file)
    if track is None:
        raise ValueError("it has no sound")
    return track


def decode_sound(file: IO[bytes], start: Fraction | None = None) -> bytes | None:
    """The same from `start` on, in seconds on the file's clock; None: it has no sound there.

    Raises:
        ValueError: as `decode_track`.
    """
    with opened(file, with_sound_files=True) as container, reading_errors():
        stream = sound_of(container)
        if stream is None:
            return None
        rate = stream.rate
        if rate not in RATES:
            raise ValueError(f"its sound has {rate} samples per second; {RATES[0]} to {RATES[-1]} are supported")
        blocks = (block for block in _blocks(container, stream, rate, start) if len(block))
        try:
            first = next(blocks, None)
            return None if first is None else encode_flac(chain([first], blocks), rate, max_bytes=LARGEST_BYTES)
        except MediaError as error:
            raise ValueError(str(error)) from None


def _blocks(container: InputContainer, stream: AudioStream, rate: int, start: Fraction | None) -> Iterator[Sound]:
    """All samples from `start` on, with silence where there are none. MediaError: damaged, or too long."""
    stereo, position, origin = Stereo(rate), 0, start
    for frame in _decoded(container, stream):
        first, samples = position, stereo(frame)
        if frame.pts is not None and frame.time_base is not None:  # otherwise it follows the one before
            time = frame.pts * frame.time_base
            origin = min(time, _first_picture(container, time)) if origin is None else origin
            first = round((time - origin) * rate)
        if position == 0 or abs(first - position) > RESYNC_S * rate:
            samples = samples[max(0, position - first) :]
            first = max(first, position)
        else:
            first = position
        if first + len(samples) > LONGEST_S * rate:
            raise MediaError(f"it is longer than {LONGEST_S // 3600} hours")
        for silent in range(position, first, _SILENCE_SAMPLES):
            yield np.zeros((min(_SILENCE_SAMPLES, first - silent), 2), np.float32)
        position = first + len(samples)
        yield samples


def _decoded(container: InputContainer, stream: AudioStream) -> Iterator[AudioFrame]:
    with media_errors("cannot be decoded"):
        yield from (frame for frame in container.decode(stream) if isinstance(frame, AudioFrame))


def _first_picture(container: InputContainer, otherwise: Fraction) -> Fraction:
    """The time of a video's first picture, in seconds."""
    video = main_video(container)
    if video is None or video.start_time is None or video.time_base is None:
        return otherwise
    return video.start_time * video.time_base


def _decode(arguments: Sequence[str]) -> bytes:
    return decode_track(sys.stdin.buffer)


if __name__ == "__main__":
    sys.exit(run_limited(_decode))
