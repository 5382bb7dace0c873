"""Child processes that decode what a user gives, with limits of memory and processor time set by the system."""

from __future__ import annotations

import math
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import IO

from ltx2.processes import python_path

_WALL_S = 60.0


def decode_in_child(
    module: str, arguments: Sequence[object], source: bytes | IO[bytes], *, seconds: float, memory_bytes: int
) -> bytes:
    """What the program `module` writes, which reads `source` on its standard input and calls `run_limited`.

    source: bytes, or an open file that the child may seek in. seconds: of processor time. memory_bytes: in addition to
    the interpreter and its libraries. Whatever the input makes a decoder do, it costs no more.

    Raises:
        ValueError: it cannot be decoded, or needs more than the limits.
    """
    command = [sys.executable, "-m", module, str(memory_bytes), str(seconds), *map(str, arguments)]
    try:
        done = subprocess.run(
            command,
            stdin=None if isinstance(source, bytes) else source,
            input=source if isinstance(source, bytes) else None,
            capture_output=True,
            check=False,
            timeout=_WALL_S + seconds,
            env=os.environ | {"PYTHONPATH": python_path()},
        )
    except subprocess.TimeoutExpired:
        raise ValueError("decoding it takes too long") from None
    if done.returncode == 0:
        return bytes(done.stdout)
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        raise ValueError(f"decoding it takes more than {math.ceil(seconds)} s of processor time")
    words = done.stdout.decode(errors="replace") if done.returncode == 1 else ""
    raise ValueError(words or f"cannot be decoded (the decoder exited with {done.returncode})")


def run_limited(decode: Callable[[Sequence[str]], bytes]) -> int:
    """The body of such a program: its exit status. decode: takes the arguments; its ValueError is passed on."""
    memory, seconds = int(sys.argv[1]), float(sys.argv[2])
    with open("/proc/self/statm") as pages:
        used = int(pages.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
    spent = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    limit = math.ceil(spent + seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
    try:
        sys.stdout.buffer.write(decode(sys.argv[3:]))
    except MemoryError:
        sys.stdout.write("decoding it needs too much memory")
        return 1
    except ValueError as error:
        sys.stdout.write(str(error))
        return 1
    return 0
