"""A user's image as the first frame of a segment: decoded in a child process, and compressed as in training."""

from __future__ import annotations

import io
import math
import os
import signal
import subprocess
import sys

import av
import numpy as np

from ltx2.processes import python_path
from ltx2.state.png import Frame

LARGEST_FILE_BYTES = 64 * 1024 * 1024
MEMORY_BYTES = 450 * 2**20
"""What decoding an image may take in addition to the interpreter and its libraries."""
SECONDS = 1.25
BYTES_PER_SECOND = 8 * 2**20
"""A file may take SECONDS of processor time, and one more for each so many bytes."""
_WALL_S = 60.0


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
    command = [sys.executable, "-m", "ltx2.media.picture_decoder", *map(str, (width, height, MEMORY_BYTES, seconds))]
    try:
        done = subprocess.run(
            command,
            input=data,
            capture_output=True,
            check=False,
            timeout=_WALL_S + seconds,
            env=os.environ | {"PYTHONPATH": python_path()},
        )
    except subprocess.TimeoutExpired:
        raise ValueError("decoding it takes too long") from None
    if done.returncode == 0 and len(done.stdout) == width * height * 3:
        return np.frombuffer(done.stdout, np.uint8).reshape(height, width, 3).copy()
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        raise ValueError(f"decoding it takes more than {math.ceil(seconds)} s of processor time")
    words = done.stdout.decode(errors="replace") if done.returncode == 1 else ""
    raise ValueError(words or f"cannot be decoded (the decoder exited with {done.returncode})")


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
