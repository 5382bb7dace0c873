"""Tensors of files, mapped into memory: nothing is copied before it is converted or goes to a GPU."""

from __future__ import annotations

import mmap
from pathlib import Path

import torch
from torch import Tensor, nn

from ltx2.checkpoints.components import Stored
from ltx2.checkpoints.formats.gguf_blocks import dequantized

ALIGNMENT = 64
"""Bytes to which torch's own memory is aligned. Sums of CPU kernels are rounded differently in other memory."""
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
_WITHOUT_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Python has no name for it before 3.13


class StoredTensors:
    """Reads tensors of safetensors and GGUF files, each mapped once. A tensor keeps its file mapped.

    A tensor may be written to; its file does not change.
    """

    def __init__(self) -> None:
        self._mapped: dict[Path, mmap.mmap] = {}

    def raw(self, stored: Stored) -> Tensor:
        """The tensor as it is stored: of a quantized GGUF tensor its blocks, uint8 `[bytes]`."""
        if not stored.size:
            return torch.empty(stored.shape, dtype=_DTYPES[stored.dtype])
        dtype = torch.uint8 if is_blocks(stored) else _DTYPES[stored.dtype]
        count = stored.size // dtype.itemsize
        raw = torch.frombuffer(self._map(stored.file), dtype=dtype, count=count, offset=stored.begin)
        return raw if is_blocks(stored) else raw.reshape(stored.shape)

    def scale(self, stored: Stored) -> Tensor | None:
        """The float32 factor of a float8 weight, one or `[rows, 1]`; None if it has none."""
        if stored.scale is None:
            return None
        scale = self.raw(stored.scale).float()
        return scale.reshape(-1, 1) if scale.numel() > 1 else scale.reshape(())

    def read(self, stored: Stored, dtype: torch.dtype | None = None) -> Tensor:
        """The numbers of a tensor in `dtype`; None is the file's, or float32 if it is quantized."""
        raw, scale = self.raw(stored), self.scale(stored)
        if is_blocks(stored):
            into = torch.float32 if stored.added else dtype or torch.float32
            raw = dequantized(stored.dtype, stored.shape, raw, into)
        if stored.added:
            raw = raw.float() - stored.added
        elif scale is not None:
            raw = raw.float() * scale
        return raw if dtype is None or not raw.is_floating_point() else raw.to(dtype)

    def _map(self, file: Path) -> mmap.mmap:
        """The file in memory. Nothing is reserved for changes: a file may be larger than the memory of the machine."""
        if file not in self._mapped:
            flags = mmap.MAP_PRIVATE | _WITHOUT_RESERVE
            with file.open("rb") as opened:
                self._mapped[file] = mmap.mmap(opened.fileno(), 0, flags, mmap.PROT_READ | mmap.PROT_WRITE)
        return self._mapped[file]


def is_blocks(stored: Stored) -> bool:
    """Whether a tensor is in the quantized blocks of a GGUF file."""
    return stored.dtype not in _DTYPES


def align(module: nn.Module) -> None:
    """Copy what lies in a mapped file at an odd place, so that a CPU computes the same from whatever file it is in.

    Blocks of GGUF may stay: they are converted to other memory before they are used.
    """
    for owner in module.modules():
        for parameter in owner._parameters.values():
            if parameter is not None and parameter.is_floating_point() and parameter.data_ptr() % ALIGNMENT:
                parameter.data = parameter.data.clone()
        for name, buffer in owner._buffers.items():
            if buffer is not None and buffer.data_ptr() % ALIGNMENT:
                owner._buffers[name] = buffer.clone()
