"""Sound as FLAC: stereo, 24 bits, lossless; the form in which a user's sound is stored."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction

import av
import numpy as np
from numpy.typing import NDArray

from ltx2.errors import MediaError
from ltx2.media.container import from_pcm24, media_errors, to_pcm24

MIME = "audio/flac"


def encode_flac(blocks: Iterable[NDArray[np.float32]], rate: int, *, max_bytes: int | None = None) -> bytes:
    """Sound as FLAC. blocks: float32 `[samples, 2]` in order, clipped to [-1, 1]. rate: Hz. The same bytes each time.

    Raises:
        MediaError: a rate that FLAC does not have, no sound, or more than `max_bytes`.
    """
    file, position = io.BytesIO(), 0
    with (
        media_errors("cannot encode the sound"),
        av.open(file, "w", format="flac", options={"fflags": "+bitexact"}) as container,
    ):
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


@contextmanager
def open_flac(data: bytes) -> Iterator[tuple[int, Iterator[NDArray[np.float32]]]]:
    """The rate of a FLAC of `encode_flac`, and its samples in blocks. MediaError: another file, or damaged."""
    with (
        media_errors("not readable sound"),
        av.open(io.BytesIO(data), "r", format="flac", metadata_errors="ignore") as file,
    ):
        stream = file.streams.audio[0]
        depth = getattr(stream.format, "name", None)  # None if the header is damaged
        if stream.channels != 2 or depth != "s32":
            raise MediaError(f"stored sound must be stereo with 24 bits, not {stream.channels} channels, {depth}")
        stream.codec_context.options = {"err_detect": "crccheck+explode"}
        yield stream.sample_rate, (from_pcm24(frame) for frame in file.decode(stream))


def decode_flac(data: bytes) -> tuple[NDArray[np.float32], int]:
    """All samples `[samples, 2]` of a FLAC of `encode_flac`, and their rate. MediaError: as `open_flac`."""
    with open_flac(data) as (rate, blocks):
        return np.concatenate([np.zeros((0, 2), np.float32), *blocks]), rate
