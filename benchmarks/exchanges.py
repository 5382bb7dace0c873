"""Other ways to exchange by copies than `ltx2.parallel.copies`, to be measured: `benchmarks/parallel.py --ways`.

- direct: one stream sends, another receives, so that no rank sends later because another is late. What arrives stays
  where it arrives, instead of being copied once more.
- strided: also sends heads out of the middle of tokens, instead of making them contiguous with a kernel.

What arrives is read where the next exchange of the name will write. It is not overwritten before: a rank reads it
before it starts another exchange, which the others end before they start the next one of the name.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ltx2.parallel import collectives, copies, shares
from ltx2.parallel.collectives import start_swap
from ltx2.parallel.copies import _CLEAR, _EQUAL, _SET, Copies, _copy
from ltx2.parallel.exchange import Name, Shared

WAYS = ("copies", "direct", "strided", "launched")
"""launched: as copies, but blocks are not CUDA graphs."""
_UNIFIED = 4  # CU_MEMORYTYPE_UNIFIED: memory of this GPU or of another


def use(way: str) -> None:
    """Exchange in this way from now on, in this process. Blocks that are CUDA graphs have to be captured again."""
    kind = DirectCopies if way in ("direct", "strided") else Copies
    collectives.Copies = kind  # type: ignore[misc]
    collectives._copies = _made.setdefault(kind, functools.cache(_make))
    shares.Shared = StridedShared if way == "strided" else Shared  # type: ignore[misc]


_make = collectives._copies.__wrapped__
_made: dict[type[Copies], Any] = {}
"""What has made the copies of each kind, and keeps them: graphs have their addresses."""


@dataclass(frozen=True, slots=True)
class Events:
    """What has to be over before an exchange is: all that was sent, and all that was received."""

    events: tuple[torch.cuda.Event, torch.cuda.Event]

    def wait(self) -> None:
        """Let the current stream wait."""
        for event in self.events:
            event.wait()

    def synchronize(self) -> None:
        """Wait."""
        for event in self.events:
            event.synchronize()


class DirectCopies(Copies):
    """See above. The result is memory that the next exchange of the name writes to."""

    def __init__(self, group: Any, device: torch.device) -> None:
        super().__init__(group, device)
        self._receiving = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def start(self, parts: Tensor, name: str) -> tuple[Tensor, Any]:
        """As `Copies.start`. The parts may be strided, each in the same way."""
        size, own = parts.nbytes, self._rank
        each = size // self._count
        box = self._box(name, size)
        result = box.memory[:size].view(parts.dtype).view(parts.shape)
        for stream in (self._stream, self._receiving):
            stream.wait_stream(torch.cuda.current_stream(self._device))
        sending, receiving = ctypes.c_void_p(self._stream.cuda_stream), ctypes.c_void_p(self._receiving.cuda_stream)
        others = [(own + step) % self._count for step in range(1, self._count)]
        for other in others:
            _send(box.place(other, own, each), parts[other], sending)
            copies._driver("cuStreamWriteValue32_v2", sending, box.flag(other, own), _SET, 0)
        _send(box.place(own, own, each), parts[own], receiving)
        for other in reversed(others):
            copies._driver("cuStreamWaitValue32_v2", receiving, box.flag(own, other), _SET, _EQUAL)
            copies._driver("cuStreamWriteValue32_v2", receiving, box.flag(own, other), _CLEAR, 0)
        return result, Events((self._stream.record_event(), self._receiving.record_event()))


class StridedShared(Shared):
    """Sends parts as they are."""

    __slots__ = ()

    def _start(self, parts: Tensor, name: Name) -> Any:
        parts = parts if parts.is_cuda else parts.contiguous()  # for gloo
        return start_swap(parts, name, self.group), list(parts.shape), name


class _Copy2D(ctypes.Structure):
    """CUDA_MEMCPY2D: rows of `width` bytes, whose beginnings are `pitch` bytes apart."""

    _fields_ = [
        (f"{side}_{name}" if side else name, kind)
        for side in ("source", "target")
        for name, kind in (
            ("x", ctypes.c_size_t),
            ("y", ctypes.c_size_t),
            ("memory", ctypes.c_uint),
            ("host", ctypes.c_void_p),
            ("device", ctypes.c_uint64),
            ("array", ctypes.c_void_p),
            ("pitch", ctypes.c_size_t),
        )
    ] + [("width", ctypes.c_size_t), ("height", ctypes.c_size_t)]


def _send(target: ctypes.c_uint64, part: Tensor, stream: ctypes.c_void_p) -> None:
    """Copy `part` of one rank to contiguous memory: `[B, t, h, D]`, whose rows of all heads are contiguous."""
    source = ctypes.c_uint64(part.data_ptr())
    if part.is_contiguous():
        _copy(target, source, part.nbytes, stream)
        return
    width = part[0, 0].nbytes
    if part.shape[0] != 1 or not part[0, 0].is_contiguous():
        raise RuntimeError(f"parts of shape {tuple(part.shape)} have strides {part.stride()}: rows are not contiguous")
    copied = _Copy2D(width=width, height=part.shape[1])
    copied.source_memory = copied.target_memory = _UNIFIED
    copied.source_device, copied.target_device = source, target
    copied.source_pitch, copied.target_pitch = part.stride(1) * part.element_size(), width
    copies._driver("cuMemcpy2DAsync_v2", ctypes.byref(copied), stream)
