"""The numbers in the blocks of a quantized GGUF tensor, computed by diffusers' functions on any device."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ltx2.checkpoints.formats.gguf import BLOCKS
from ltx2.errors import UnsupportedModelError
from ltx2.extras import install_line

MOST_AT_ONCE = 1 << 24
"""Numbers that are converted at once while loading: a table of embeddings takes 4 GB in float32."""
_NUMBERS = {name: (number, size, count) for number, (name, count, size) in BLOCKS.items()}


def dequantizer(dtype: str, shape: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    """A function from blocks, uint8 in any shape, to the float32 tensor of this `shape`. dtype: such as Q8_0.

    Raises:
        UnsupportedModelError: the package gguf is not installed.
    """
    try:
        from diffusers.quantizers.gguf.utils import dequantize_functions
    except ImportError as exc:
        raise UnsupportedModelError(f"a GGUF file needs the package gguf: {install_line('gguf')}") from exc
    number, size, count = _NUMBERS[dtype]
    function: Callable[..., Any] = dequantize_functions[number]

    def dequantize(raw: Tensor) -> Tensor:
        numbers: Tensor = function(raw.reshape(-1, size), count, size, torch.float32)
        return numbers.reshape(shape)

    return dequantize


def dequantized(dtype: str, shape: tuple[int, ...], raw: Tensor, into: torch.dtype) -> Tensor:
    """The numbers of the blocks `raw` in the dtype `into`, rounded once from float32; see `dequantizer`."""
    _, size, count = _NUMBERS[dtype]
    blocks, found = raw.reshape(-1, size), torch.empty(math.prod(shape), dtype=into)
    step = MOST_AT_ONCE // count
    for begin in range(0, len(blocks), step):
        some = blocks[begin : begin + step]
        found[begin * count :][: len(some) * count] = dequantizer(dtype, (len(some) * count,))(some)
    return found.reshape(shape)
