"""The numbers in the blocks of a quantized GGUF tensor, computed by diffusers' functions on any device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ltx2.checkpoints.gguf import BLOCKS
from ltx2.errors import UnsupportedModelError

_NUMBERS = {name: (number, size, count) for number, (name, count, size) in BLOCKS.items()}


def dequantizer(dtype: str, shape: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    """A function from blocks, uint8 in any shape, to the float32 tensor of this `shape`. dtype: such as Q8_0.

    Raises:
        UnsupportedModelError: the package gguf is not installed.
    """
    try:
        from diffusers.quantizers.gguf.utils import dequantize_functions
    except ImportError as exc:
        raise UnsupportedModelError(
            "the model is a GGUF file, which needs the package gguf: install longtake[gguf]"
        ) from exc
    number, size, count = _NUMBERS[dtype]
    function: Callable[..., Any] = dequantize_functions[number]

    def dequantize(raw: Tensor) -> Tensor:
        numbers: Tensor = function(raw.reshape(-1, size), count, size, torch.float32)
        return numbers.reshape(shape)

    return dequantize
