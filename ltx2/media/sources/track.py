"""Decodes the sound of a user's file. Run as a program, it is a child process with limits: see `reader`.

The result is a FLAC that begins at the file's time 0: stereo, 24 bits, at the file's own rate.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import IO

import numpy as np
from av import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer

from ltx2.errors import MediaError
from ltx2.media.limited_child import run_limited
from ltx2.media.sound_file import encode_flac
from ltx2.media.sources.opening import opened, reading_errors, sound_of
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
    with opened(file, with_sound_files=True) as container, reading_errors():
        stream = sound_of(container)
        if stream is None:
            raise ValueError("it has no sound")
        rate = stream.rate
        if rate not in RATES:
            raise ValueError(f"its sound has {rate} samples per second; {RATES[0]} to {RATES[-1]} are supported")
        try:
            return encode_flac(_blocks(container, stream, rate), rate, max_bytes=LARGEST_BYTES)
        except MediaError as error:
            raise ValueError(str(error)) from None


def _blocks(container: InputContainer, stream: AudioStream, rate: int) -> Iterator[Sound]:
    """All samples from time 0 on, with silence where there are none."""
    stereo, position = Stereo(), 0
    for frame in container.decode(stream):
        if not isinstance(frame, AudioFrame) or frame.pts is None or frame.time_base is None:
            raise ValueError("its sound has no times")
        start = round(frame.pts * frame.time_base * rate)
        samples = stereo(frame)
        if abs(start - position) > RESYNC_S * rate or (position == 0 and start < 0):
            samples = samples[max(0, position - start) :]
        else:
            start = position
        if max(start, position) + len(samples) > LONGEST_S * rate:
            raise ValueError(f"it is longer than {LONGEST_S // 3600} hours")
        for first in range(position, start, _SILENCE_SAMPLES):
            yield np.zeros((min(_SILENCE_SAMPLES, start - first), 2), np.float32)
        position = max(position, start) + len(samples)
        yield samples


def _decode(arguments: Sequence[str]) -> bytes:
    return decode_track(sys.stdin.buffer)


if __name__ == "__main__":
    sys.exit(run_limited(_decode))
