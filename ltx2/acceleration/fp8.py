"""Linear layers in float8: half the memory of bfloat16 and, on Hopper, twice its rate."""

from __future__ import annotations

import torch
from torch import Tensor, nn

FLOAT8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FLOAT8).max  # 448
SMALLEST_SIZE = 128
"""Layers with fewer inputs or outputs are not converted: they would gain nothing, and float8 needs multiples of 16."""
PICTURE_LAYERS = (
    *("attn1", "attn2", "ff"),
    *("audio_to_video_attn.to_q", "audio_to_video_attn.to_out"),
    *("video_to_audio_attn.to_k", "video_to_audio_attn.to_v"),
)


class Float8Linear(nn.Module):
    """A linear layer with one scale per output channel (of the weights) and one per token (of the input).

    The scale of a row is its largest magnitude divided by 448, the largest number of e4m3, so no value is clipped.
    Products are summed in float32; the result has the input's dtype. All tensors are parameters, because diffusers'
    group offloading leaves the buffers of a block on the device.
    """

    def __init__(self, weight: Tensor, weight_scale: Tensor, bias: Tensor | None) -> None:
        """weight: float8 `[out, in]`; weight_scale: float32 `[1, out]`; bias: `[out]` or None."""
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.weight_scale = nn.Parameter(weight_scale, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    @classmethod
    def of(cls, linear: nn.Linear, device: torch.device) -> Float8Linear:
        """`linear` in float8, converted on `device`, on the device of `linear`."""
        scaled, scale = rows_to_float8(linear.weight.detach().to(device))
        original = linear.weight.device
        bias = None if linear.bias is None else linear.bias.detach()
        return cls(scaled.to(original), scale.t().contiguous().to(original), bias)

    @classmethod
    def stored(cls, weight: Tensor, scale: Tensor | None, bias: Tensor | None) -> Float8Linear:
        """A layer with a float8 `weight` of a file. scale: one number or one per row; None is 1."""
        return cls(weight, _of_rows(scale, weight.shape[0]), bias)

    def restore(self, weight: Tensor, scale: Tensor | None) -> None:
        """Put a weight as of `stored` in place of the present one."""
        self.weight.copy_(weight)
        self.weight_scale.copy_(_of_rows(scale, weight.shape[0]))

    def store(self, weight: Tensor) -> None:
        """Convert another `weight` `[out, in]` as `of` does, on its device, and put it in place of the present one."""
        scaled, scale = rows_to_float8(weight)
        self.weight.copy_(scaled)
        self.weight_scale.copy_(scale.t())

    def forward(self, x: Tensor) -> Tensor:
        """x: `[..., in]`, bfloat16 on a GPU."""
        rows, row_scale = rows_to_float8(x.flatten(0, -2))
        product: Tensor = torch._scaled_mm(
            rows,
            self.weight.t(),
            scale_a=row_scale,
            scale_b=self.weight_scale,
            bias=self.bias,
            out_dtype=x.dtype,
            use_fast_accum=True,
        )
        return product.view(*x.shape[:-1], -1)


def _of_rows(scale: Tensor | None, rows: int) -> Tensor:
    """One number or one per row as float32 `[1, rows]`; None is 1."""
    return torch.ones(1, rows) if scale is None else scale.reshape(1, -1).expand(1, rows).contiguous()


def rows_to_float8(x: Tensor) -> tuple[Tensor, Tensor]:
    """`[rows, n]` as float8 and the float32 scale `[rows, 1]` of each row."""
    return to_float8(x, x.abs().amax(dim=1, keepdim=True).float())


def to_float8(x: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
    """`x` as float8, and the float32 scale by which its numbers are to be multiplied.

    largest: float32, of the magnitudes that have one scale; the scale has its shape.
    """
    largest = largest.clamp(min=1e-12)
    return (x.float() * (LARGEST / largest)).to(FLOAT8), largest / LARGEST


def quantize(block: nn.Module, device: torch.device) -> None:
    """Replace the large linear layers of a transformer block that process video or text tokens; convert on `device`.

    Audio layers are not converted: for their one or two hundred tokens, computing the scales costs more than it saves.
    """
    for path in PICTURE_LAYERS:
        for name, layer in list(block.get_submodule(path).named_modules(prefix=path)):
            if type(layer) is nn.Linear and min(layer.in_features, layer.out_features) >= SMALLEST_SIZE:
                parent, _, attribute = name.rpartition(".")
                setattr(block.get_submodule(parent), attribute, Float8Linear.of(layer, device))
