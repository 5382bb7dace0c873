"""A user's image as the first frame of a segment: decoded in a child process, and compressed as in training."""

from __future__ import annotations

import io

import av
import numpy as np

from ltx2.media.limited_child import decode_in_child
from ltx2.state.png import Frame

LARGEST_FILE_BYTES = 64 * 1024 * 1024
MEMORY_BYTES = 450 * 2**20
"""What decoding an image may take in addition to the interpreter and its libraries."""
SECONDS = 1.25
BYTES_PER_SECOND = 8 * 2**20
"""A file may take SECONDS of processor time, and one more for each so many bytes."""


def decode_still(data: bytes, width: int, height: int) -> Frame:
    """Decode a PNG, JPEG or WebP to a uint8 `(height, width, 3)` RGB frame; see `ltx2.media.picture_decoder`.

    A child process decodes it, with limits of memory and processor time: whatever a file makes a decoder do, it costs
    no more.

    Raises:
        ValueError: another format, a truncated, unreadable or animated file, too many bytes or pixels, or a file that
            needs more memory or time than the limits.
    """
    if len(data) > LARGEST_FILE_BYTES:
        raise ValueError(f"{len(data)} bytes, the limit is {LARGEST_FILE_BYTES}")
    seconds = SECONDS + len(data) / BYTES_PER_SECOND
    pixels = decode_in_child(
        "ltx2.media.picture_decoder", (width, height), data, seconds=seconds, memory_bytes=MEMORY_BYTES
    )
    if len(pixels) != width * height * 3:
        raise ValueError("cannot be decoded")
    return np.frombuffer(pixels, np.uint8).reshape(height, width, 3).copy()


def recompressed(frame: Frame, crf: int) -> Frame:
    """`frame` as H.264 with quality `crf` shows it, as in the model's training; 0 leaves it as it is.

    A picture without any loss looks to the model like one that never moves.
    """
    if not crf:
        return frame
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=1, options={"crf": str(crf), "preset": "veryfast"})
        stream.height, stream.width = frame.shape[:2]
        stream.pix_fmt, stream.thread_count = "yuv420p", 1  # the same bytes on every machine
        for packet in (*stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")), *stream.encode(None)):
            container.mux(packet)
    file.seek(0)
    with av.open(file, "r") as container:
        shown: Frame = next(container.decode(video=0)).to_ndarray(format="rgb24").astype(np.uint8, copy=False)
    return shown
