"""Sound as FLAC: stereo, 24 bits, lossless; the form in which a user's sound is stored."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from numpy.typing import NDArray

from ltx2.errors import MediaError
from ltx2.media.container import from_pcm24, media_errors, to_pcm24
from ltx2.timeline import round_half_up

MIME = "audio/flac"
_UNSEEKABLE_S = 1  # at its end: FFmpeg cannot seek into the last FLAC frames of a file, of up to 0.105 s each


def encode_flac(
    blocks: Iterable[NDArray[np.float32]], rate: int, *, max_bytes: int | None = None, comment: str = ""
) -> bytes:
    """Sound as FLAC. blocks: float32 `[samples, 2]` in order, clipped to [-1, 1]. rate: Hz. The same bytes each time.

    comment: is written into the file.

    Raises:
        MediaError: a rate that FLAC does not have, no sound, or more than `max_bytes`.
    """
    file, position = io.BytesIO(), 0
    with (
        media_errors("cannot encode the sound"),
        av.open(file, "w", format="flac", options={"fflags": "+bitexact"}) as container,
    ):
        if comment:
            container.metadata["comment"] = comment
        stream = container.add_stream("flac", rate=rate, format="s32", layout="stereo")
        for block in blocks:
            if not len(block):
                continue
            frame = to_pcm24(block)
            frame.sample_rate, frame.pts, frame.time_base = rate, position, Fraction(1, rate)
            position += len(block)
            container.mux(stream.encode(frame))
            if max_bytes is not None and file.tell() > max_bytes:
                raise MediaError(f"as FLAC it has more than {max_bytes:,} bytes")
        if not position:
            raise MediaError("it has no sound")
        container.mux(stream.encode(None))
    return file.getvalue()


def seconds_of(data: bytes) -> Fraction:
    """The length of a FLAC of `encode_flac`, from its header. MediaError: another file."""
    with media_errors("not readable sound"), av.open(io.BytesIO(data), "r", format="flac") as file:
        return Fraction(file.duration or 0, av.time_base)


@contextmanager
def open_flac(data: bytes, *, start: Fraction = Fraction(0)) -> Iterator[tuple[int, Iterator[NDArray[np.float32]]]]:
    """The rate of a FLAC of `encode_flac`, and its samples from `start` seconds on, in blocks.

    Raises:
        MediaError: another file, or damaged; also while the blocks are read.
    """
    with (
        media_errors("not readable sound"),
        av.open(io.BytesIO(data), "r", format="flac", metadata_errors="ignore") as file,
    ):
        stream = file.streams.audio[0]
        depth = getattr(stream.format, "name", None)  # None if the header is damaged
        if stream.channels != 2 or depth != "s32":
            raise MediaError(f"stored sound must be stereo with 24 bits, not {stream.channels} channels, {depth}")
        stream.codec_context.options = {"err_detect": "crccheck+explode"}
        yield stream.sample_rate, _blocks(file, stream, round_half_up(start * stream.sample_rate))


def _blocks(file: InputContainer, stream: AudioStream, first: int) -> Iterator[NDArray[np.float32]]:
    """The samples from number `first` on."""
    start = min(Fraction(first, stream.sample_rate), Fraction(file.duration or 0, av.time_base) - _UNSEEKABLE_S)
    if start > 0 and stream.time_base:
        file.seek(int(start / stream.time_base), stream=stream)
    for frame in file.decode(stream):
        position = round((frame.pts or 0) * (frame.time_base or 0) * stream.sample_rate)
        yield from_pcm24(frame)[max(0, first - position) :]


def decode_flac(data: bytes) -> tuple[NDArray[np.float32], int]:
    """All samples `[samples, 2]` of a FLAC of `encode_flac`, and their rate. MediaError: as `open_flac`."""
    with open_flac(data) as (rate, blocks):
        return np.concatenate([np.zeros((0, 2), np.float32), *blocks]), rate
