"""Reading a finished film: its frames segment by segment, and its sound."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

import av
import numpy as np
from numpy.typing import NDArray

from ltx2.errors import MediaError
from ltx2.media.container import media_errors
from ltx2.timeline import SegmentTiming, film_frames, film_samples

_UNREADABLE = "cannot read the film"


def film_sound(data: bytes, timings: Sequence[SegmentTiming]) -> tuple[NDArray[np.float32], int]:
    """The sound `[C, n]` of these segments, with their exact length, and its rate.

    data: an MP4 that `join_film` wrote. The first segment need not be at its beginning.

    Raises:
        MediaError: the film cannot be read, or its sound is too short.
    """
    with _open(data) as container:
        rate = container.streams.audio[0].rate
        blocks = [frame.to_ndarray() for frame in container.decode(audio=0)]
    first, frames, fps = timings[0].first_frame, film_frames(timings), timings[0].shape.fps
    expected = film_samples(frames, fps, rate)
    start = film_samples(first + frames, fps, rate) - expected
    sound = np.concatenate(blocks, axis=1).astype(np.float32)[:, start : start + expected]  # AAC pads its last block
    if sound.shape[1] < expected:
        raise MediaError(f"{_UNREADABLE}: its sound has {sound.shape[1]} of {expected} samples")
    return sound, rate


def film_pieces(data: bytes, timings: Sequence[SegmentTiming]) -> Iterator[NDArray[np.uint8]]:
    """The RGB frames `[T, H, W, 3]` that begin with each segment in turn. A dissolve belongs to the later one.

    Raises:
        MediaError: the film cannot be read, or is too short.
    """
    with _open(data) as container:
        decoded = islice(container.decode(video=0), timings[0].first_frame, None)
        frames = (frame.to_ndarray(format="rgb24") for frame in decoded)
        for timing in timings:
            piece = list(islice(frames, timing.shown_frames))
            if len(piece) < timing.shown_frames:
                raise MediaError(
                    f"{_UNREADABLE}: segment {timing.index} has {len(piece)} of {timing.shown_frames} frames"
                )
            yield np.stack(piece)


def clip_frames(data: bytes) -> NDArray[np.uint8]:
    """The RGB frames `[T, H, W, 3]` of a segment's clip. MediaError: it cannot be read."""
    with _open(data) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@contextmanager
def _open(data: bytes) -> Iterator[av.container.InputContainer]:
    with media_errors(_UNREADABLE), av.open(io.BytesIO(data), "r", format="mp4") as container:
        yield container
