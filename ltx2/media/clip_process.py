"""Clips encoded by a child process, so that this one's threads never wait for its GIL.

The child reads one line of JSON per clip on its standard input, the arrays in memory that both have mapped, and answers
with a line of JSON and the clip. It ends with this process: its standard input is then closed.
"""

from __future__ import annotations

import json
import mmap
import os
import queue
import subprocess
import sys
import tempfile
import threading
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltx2.errors import MediaError
from ltx2.media.clip import encode_clip
from ltx2.processes import python_path

SMALLEST_BYTES = 8 * 1024**2
"""Frames of fewer bytes are encoded here: that takes less than handing them over. 25 of 384x288 have as many."""
_TRIES = 2
_MODULE = "ltx2.media.clip_process"


class ClipProcess:
    """Encodes clips in a child process, which is started when the first one is, and again after it died.

    One thread may use it. Its memory is as large as its largest clip.
    """

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._memory = _SharedMemory()

    def encode(
        self,
        frames: NDArray[np.uint8],
        sound: NDArray[np.float32],
        *,
        fps: Fraction,
        audio_rate: int,
        picture_start: Fraction,
    ) -> bytes:
        """The bytes of `encode_clip` with the same arguments.

        Raises:
            MediaError: as `encode_clip`; or the child died twice.
        """
        if frames.nbytes < SMALLEST_BYTES:
            return encode_clip(frames, sound, fps=fps, audio_rate=audio_rate, picture_start=picture_start)
        more = {"fps": str(fps), "audio_rate": audio_rate, "picture_start": str(picture_start)}
        request = {"arrays": self._memory.write([frames, sound]), **more}
        for _ in range(_TRIES):
            if (data := self._ask(request)) is not None:
                return data
            status = self._end()
        raise MediaError(f"cannot encode the clip: its process ended {_TRIES} times, the last time with {status}")

    def close(self) -> None:
        """End the child; the next clip starts another."""
        self._end()
        self._memory.close()

    def _ask(self, request: dict[str, Any]) -> bytes | None:
        """The child's answer; None if it died."""
        if self._child is None:
            self._child = subprocess.Popen(
                [sys.executable, "-m", _MODULE, str(self._memory.handle)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[self._memory.handle],
                env=os.environ | {"PYTHONPATH": python_path()},
                process_group=0,  # an interrupt of the terminal is not meant for it
            )
        requests, answers = self._child.stdin, self._child.stdout
        assert requests is not None
        assert answers is not None
        try:
            requests.write(json.dumps(request).encode() + b"\n")
            requests.flush()
        except BrokenPipeError:
            return None
        line = answers.readline()
        answer = json.loads(line) if line.endswith(b"\n") else {}
        if "error" in answer:
            raise MediaError(answer["error"])
        data = answers.read(answer.get("bytes", 0))
        return data if data and len(data) == answer["bytes"] else None

    def _end(self) -> int | None:
        """End the child, if there is one; its exit status."""
        child, self._child = self._child, None
        if child is None:
            return None
        child.kill()
        child.communicate()  # closes its pipes
        return child.returncode


class _SharedMemory:
    """A file in memory that a child inherits, and arrays in it."""

    def __init__(self) -> None:
        self._file: int | None = None

    @property
    def handle(self) -> int:
        """The file descriptor."""
        if self._file is None:
            self._file = os.memfd_create("clip") if sys.platform == "linux" else _unnamed_file()
        return self._file

    def write(self, arrays: list[NDArray[Any]]) -> list[dict[str, Any]]:
        """Put copies of `arrays` in it; how `read` finds them."""
        places, end = [], 0
        for array in arrays:
            places.append({"offset": end, "shape": array.shape, "dtype": array.dtype.str})
            end += -(-array.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
        if os.fstat(self.handle).st_size < end:
            os.ftruncate(self.handle, end)
        for array, copy in zip(arrays, _mapped(self.handle, places), strict=True):
            np.copyto(copy, array)
        return places

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _mapped(handle: int, places: list[dict[str, Any]]) -> list[NDArray[Any]]:
    """The arrays at `places` in the file; the mapping ends with the last of them."""
    memory = mmap.mmap(handle, 0)
    return [np.ndarray(place["shape"], place["dtype"], buffer=memory, offset=place["offset"]) for place in places]


def _unnamed_file() -> int:
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def main() -> None:
    """The child: encode what standard input asks for, until it is closed."""
    handle, requests = int(sys.argv[1]), queue.SimpleQueue[bytes]()
    threading.Thread(target=_read, args=(requests,), daemon=True).start()
    while True:
        request = json.loads(requests.get())
        frames, sound = _mapped(handle, request.pop("arrays"))
        fps, picture_start = Fraction(request.pop("fps")), Fraction(request.pop("picture_start"))
        try:
            data = encode_clip(frames, sound, fps=fps, picture_start=picture_start, **request)
            answer: dict[str, Any] = {"bytes": len(data)}
        except MediaError as error:
            data, answer = b"", {"error": str(error)}
        sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n" + data)
        sys.stdout.buffer.flush()


def _read(requests: queue.SimpleQueue[bytes]) -> None:
    """Queue each line of standard input. At its end the parent is gone: then this process ends, even if it encodes."""
    for line in sys.stdin.buffer:
        requests.put(line)
    os._exit(0)


if __name__ == "__main__":
    main()
