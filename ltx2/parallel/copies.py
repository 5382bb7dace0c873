"""Exchanges among the GPUs of a host by their copy engines, which leave the multiprocessors to what is computed.

A rank writes what it sends into memory of the receiver, and then a flag, for which the receiver waits. NCCL's kernels
would need multiprocessors, all of which a matrix product holds until its end.
"""

from __future__ import annotations

import ctypes
import functools
import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_SMALLEST = 256  # bytes of a box
_FLAG_BYTES = 4
_EQUAL = 1  # CU_STREAM_WAIT_VALUE_EQ
_SET, _CLEAR = ctypes.c_uint32(1), ctypes.c_uint32(0)


def can_copy(devices: list[int]) -> bool:
    """Whether each of these CUDA devices can write into the memory of each other, and may, as NCCL may."""
    if os.environ.get("NCCL_P2P_DISABLE", "0") != "0":  # on some machines such writes are lost
        return False
    pairs = [(one, other) for one in devices for other in devices if one != other]
    return all(torch.cuda.can_device_access_peer(one, other) for one, other in pairs)


@dataclass(frozen=True, slots=True)
class _Box:
    """Memory for what arrives in the exchanges of one name: a place and a flag for each rank.

    addresses: of the box of each rank, as this rank sees them. flags: where the flags begin in it.
    """

    memory: Tensor
    handle: Any
    addresses: list[int]
    flags: int

    def place(self, owner: int, sender: int, each: int) -> ctypes.c_uint64:
        return ctypes.c_uint64(self.addresses[owner] + sender * each)

    def flag(self, owner: int, sender: int) -> ctypes.c_uint64:
        return ctypes.c_uint64(self.addresses[owner] + self.flags + sender * _FLAG_BYTES)


@dataclass(frozen=True, slots=True)
class Done:
    """The end of an exchange of this rank: of all that it sends, and of all that it receives."""

    events: tuple[torch.cuda.Event, torch.cuda.Event]

    def wait(self) -> None:
        """Let the current stream wait."""
        for event in self.events:
            event.wait()

    def synchronize(self) -> None:
        """Wait."""
        for event in self.events:
            event.synchronize()


class Copies:
    """The exchanges of a process group whose ranks have a GPU each, which `can_copy` to each other.

    All ranks make the same exchanges in the same order. What arrives stays where it arrives. A rank reads it before it
    starts an exchange of another name, which the others end before they start the next one of this name. So nothing is
    overwritten before it is read.
    """

    def __init__(self, group: dist.ProcessGroup, device: torch.device) -> None:
        self._group, self._device = group, device
        self._rank, self._count = dist.get_rank(group), dist.get_world_size(group)
        # of their own, so that no rank sends later because another is late
        self._sending = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._receiving = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._boxes: dict[tuple[str, int], _Box] = {}

    def start(self, parts: Tensor, name: str) -> tuple[Tensor, Done]:
        """Send `parts[i]` to rank i.

        Returns the result, with the part of rank i at i, and what to wait for until it is complete. Until then, `parts`
        must not change. The next exchange of the name overwrites the result, which must not be written to.
        """
        each, own = parts.nbytes // self._count, self._rank
        box = self._box(name, parts.nbytes)
        result = box.memory[: parts.nbytes].view(parts.dtype).view(parts.shape)
        for stream in (self._sending, self._receiving):
            stream.wait_stream(torch.cuda.current_stream(self._device))
        sending, receiving = (ctypes.c_void_p(stream.cuda_stream) for stream in (self._sending, self._receiving))
        others = [(own + step) % self._count for step in range(1, self._count)]
        for other in others:
            _copy(box.place(other, own, each), _address(parts[other]), each, sending)
            _driver("cuStreamWriteValue32_v2", sending, box.flag(other, own), _SET, 0)
        _copy(box.place(own, own, each), _address(parts[own]), each, receiving)
        for other in reversed(others):
            _driver("cuStreamWaitValue32_v2", receiving, box.flag(own, other), _SET, _EQUAL)
            _driver("cuStreamWriteValue32_v2", receiving, box.flag(own, other), _CLEAR, 0)
        return result, Done((self._sending.record_event(), self._receiving.record_event()))

    def _box(self, name: str, size: int) -> _Box:
        """The box of a name for `size` bytes. All ranks make it together. It stays: CUDA graphs have its address."""
        capacity = max(_SMALLEST, 1 << (size - 1).bit_length())  # so that there are few
        if (name, capacity) not in self._boxes:
            self._boxes[name, capacity] = self._new_box(capacity)
        return self._boxes[name, capacity]

    def _new_box(self, flags: int) -> _Box:
        from torch.distributed import _symmetric_memory as symmetric_memory  # only where it is used

        size = flags + self._count * _FLAG_BYTES
        with torch.inference_mode(mode=False):
            memory = symmetric_memory.empty(size, dtype=torch.uint8, device=self._device).zero_()
        handle = symmetric_memory.rendezvous(memory, self._group.group_name)
        addresses = [handle.get_buffer(rank, (size,), torch.uint8).data_ptr() for rank in range(self._count)]
        torch.cuda.synchronize(self._device)
        dist.barrier(self._group, device_ids=[self._device.index])  # all flags are clear
        torch.cuda.synchronize(self._device)
        return _Box(memory, handle, addresses, flags)


def _address(part: Tensor) -> ctypes.c_uint64:
    return ctypes.c_uint64(part.data_ptr())


def _copy(target: ctypes.c_uint64, source: ctypes.c_uint64, size: int, stream: ctypes.c_void_p) -> None:
    _driver("cuMemcpyDtoDAsync_v2", target, source, ctypes.c_size_t(size), stream)


def _driver(function: str, *arguments: Any) -> None:
    """Call a function of CUDA's driver, which works for the current device.

    Raises:
        RuntimeError: it failed.
    """
    if code := getattr(_library(), function)(*arguments):
        raise RuntimeError(f"CUDA's {function} failed with error {code}")


@functools.cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")
