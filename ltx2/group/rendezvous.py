"""How the ranks of one host find each other, and which device each has."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed
from torch._C._distributed_c10d import FileStore

from ltx2.errors import DeviceError
from ltx2.parallel.ranks import Ranks

ALL = "all"
_LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}


def rank_count(gpus: str, device: str) -> int:
    """How many ranks `gpus` means, a number or `all`, on the device that the first one has (auto, cpu, cuda or cuda:N).

    Without a GPU, `all` is one. Several ranks on a CPU are for tests, so the device must then be cpu.

    Raises:
        DeviceError: this host has fewer GPUs, or none.
    """
    has_cuda = device != "cpu" and torch.cuda.is_available()
    first = _first(device)
    available = torch.cuda.device_count() - first if has_cuda else 1
    if gpus == ALL:
        return max(available, 1)
    if has_cuda and int(gpus) > available:
        counted = f"{available} CUDA devices from {device} on" if first else f"{available} CUDA devices"
        raise DeviceError("gpus", f"{gpus}, but this host has {counted}")
    if not has_cuda and device != "cpu" and int(gpus) > 1:
        raise DeviceError(
            "gpus",
            f"{gpus}, but this machine has no GPU; several processes on its CPU are for tests and need "
            "LONGTAKE_DEVICE=cpu",
        )
    return int(gpus)


def device_of_rank(device: str, rank: int) -> str:
    """The device of a rank: the CPU for all, or the GPUs that follow that of rank 0."""
    if device == "cpu" or not torch.cuda.is_available():
        return device
    return f"cuda:{_first(device) + rank}"


def join(rank: int, count: int, device: str, folder: Path, *, timeout_s: float) -> Ranks:
    """Join the ranks that share `folder`, all on this host; each waits for the others.

    device: of this rank. timeout_s: how long one rank may wait for another, here and in each exchange.

    Raises:
        RuntimeError: the others did not come.
    """
    for name, value in _LOOPBACK.items():
        os.environ.setdefault(name, value)
    backend = "gloo"
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    wait = timedelta(seconds=timeout_s)
    store = FileStore(str(folder / "ranks"), count)  # unlike a port, no other user can reach it
    store.set_timeout(wait)
    distributed.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=wait)
    group = distributed.group.WORLD
    assert group is not None
    return Ranks(rank, count, group)


def _first(device: str) -> int:
    return int(device.partition(":")[2] or 0)
