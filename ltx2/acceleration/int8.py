"""Linear layers whose weights are int8, for a text encoder that is to take half its memory."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LARGEST = 127


class Int8Linear(nn.Module):
    """A linear layer with int8 weights and one scale per output channel. Inputs are not quantized.

    The scale of a row is its largest magnitude divided by 127, so no value is clipped. bfloat16 holds every int8, so
    the product is as exact as that of other weights, and is scaled in float32. torchao has the same layer, but as a
    subclass of tensors whose releases each need one version of torch; these lines run on any.
    """

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        """weight: int8 `[out, in]`; scale: float32 `[out]`; bias: `[out]` or None."""
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.scale = nn.Parameter(scale, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    @classmethod
    def of(cls, linear: nn.Linear, device: torch.device) -> Int8Linear:
        """`linear` in int8, converted on `device`, on the device of `linear`."""
        rows = linear.weight.detach().to(device).float()
        scale = rows.abs().amax(dim=1).clamp(min=1e-12) / LARGEST
        levels = (rows / scale[:, None]).round().to(torch.int8)
        original = linear.weight.device
        bias = None if linear.bias is None else linear.bias.detach()
        return cls(levels.to(original), scale.to(original), bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: `[..., in]`; the result has its dtype."""
        product = F.linear(x, self.weight.to(x.dtype)) * self.scale
        return (product if self.bias is None else product + self.bias).to(x.dtype)


def quantize_linears(model: nn.Module, device: torch.device) -> None:
    """Replace all linear layers of `model`; convert on `device`."""
    for name, layer in list(model.named_modules()):
        if type(layer) is nn.Linear:
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, Int8Linear.of(layer, device))
