"""The settings of torch under which a model renders."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ltx2.errors import EngineMemoryError


@contextmanager
def memory_errors(doing: str) -> Iterator[None]:
    """Raise EngineMemoryError where torch runs out of memory. doing: begins the message."""
    try:
        yield
    except torch.OutOfMemoryError as exc:
        raise EngineMemoryError(f"{doing}: {exc}") from exc


@contextmanager
def render_context(doing: str, stream: torch.cuda.Stream | None) -> Iterator[None]:
    """No gradients, typed memory errors, this stream on CUDA, and one thread on a CPU.

    The number of threads changes the order of sums, and thus the bytes of the result. Only small models run on a CPU,
    and one thread is as fast as two for them.
    """
    threads = torch.get_num_threads()
    if stream is None:
        torch.set_num_threads(1)
    else:
        stream.wait_stream(torch.cuda.current_stream(stream.device))  # on which the weights were loaded
    try:
        with torch.inference_mode(), torch.cuda.stream(stream), memory_errors(doing):
            yield
    finally:
        torch.set_num_threads(threads)
