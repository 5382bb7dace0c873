"""Linear layers that keep weights as the files of a model store them: float8 with a scale, or blocks of GGUF."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltx2.acceleration.fp8 import PICTURE_LAYERS, SMALLEST_SIZE, Float8Linear
from ltx2.checkpoints.components import Stored
from ltx2.checkpoints.formats.gguf_blocks import dequantizer


class GgufLinear(nn.Module):
    """A linear layer whose weight is in the blocks of a GGUF file, and is computed in float32 in each call.

    The blocks are a parameter, because diffusers' group offloading leaves the buffers of a block on the device.
    """

    def __init__(self, raw: Tensor, dtype: str, shape: tuple[int, ...], bias: Tensor | None) -> None:
        """raw: uint8 `[bytes]`; dtype: of GGUF, such as Q8_0; shape: `(out, in)`; bias: `[out]` or None."""
        super().__init__()
        self.out_features, self.in_features = shape
        self._dequantize = dequantizer(dtype, shape)
        self.blocks = nn.Parameter(raw, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: `[..., in]`; the result has its dtype."""
        return F.linear(x, self._dequantize(self.blocks).to(x.dtype), self.bias)


class ScaledLinear(nn.Module):
    """A linear layer whose weight is float8 with a scale, and is computed in float32 in each call, on any device."""

    def __init__(self, weight: Tensor, scale: Tensor | None, bias: Tensor | None) -> None:
        """weight: float8 `[out, in]`; scale: float32, one number or `[out, 1]`; None is 1. bias: `[out]` or None."""
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.scale = nn.Parameter(torch.ones(()) if scale is None else scale, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: `[..., in]`; the result has its dtype."""
        return F.linear(x, (self.weight.float() * self.scale).to(x.dtype), self.bias)


class StoredWeights:
    """Decides which layers keep their weights. float8: whether the device computes in float8.

    GGUF blocks stay. Of the transformer's float8 layers, those stay that `LONGTAKE_PRECISION=fp8` would convert: others
    gain nothing. A text encoder's float8 layers stay, but are not computed in float8, so that its hidden states are
    those of the converted weights.
    """

    def __init__(self, *, float8: bool) -> None:
        self._float8 = float8

    def __call__(
        self, layer: str, stored: Stored, raw: Tensor, scale: Tensor | None, bias: Tensor | None
    ) -> nn.Module | None:
        """The layer `layer` with its weight `stored`; None if that is converted. See `KeepQuantized`."""
        if raw.dtype == torch.uint8:
            return GgufLinear(raw, stored.dtype, stored.shape, bias)
        if layer.startswith("language_model."):
            return ScaledLinear(raw, scale, bias)
        if not self._float8 or not is_picture_layer(layer) or min(stored.shape) < SMALLEST_SIZE:
            return None
        return Float8Linear.stored(raw, scale, bias)


def is_picture_layer(layer: str) -> bool:
    """Whether `layer`, such as `transformer_blocks.0.attn1.to_q`, is one that `quantize` converts if it is large."""
    first, _, rest = layer.partition(".")
    inner = rest.partition(".")[2]
    return first == "transformer_blocks" and any(
        inner == path or inner.startswith(f"{path}.") for path in PICTURE_LAYERS
    )
