from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ltx2.acceleration.fp8 import LARGEST, SMALLEST_SIZE, Float8Linear, quantize, rows_to_float8

CPU = torch.device("cpu")
ROUNDING = 2**-4
"""e4m3 has three mantissa bits: rounding changes a number by at most half of the last bit, 1/16 of it."""


@given(seed=st.integers(0, 2**32), exponent=st.integers(-20, 20))
def test_the_error_of_a_row_is_within_rounding(seed: int, exponent: int) -> None:
    # Given rows of any magnitude, one of them zero
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(seed)) * 2.0**exponent
    x[2] = 0
    # When
    rows, scale = rows_to_float8(x)
    # Then nothing is clipped, and small numbers change by at most the smallest step
    off = (rows.float() * scale - x).abs()
    assert float(rows.float().abs().max()) <= LARGEST
    assert bool((off <= ROUNDING * x.abs() + scale * 2**-10).all())
    assert bool((rows[2].float() == 0).all())


@torch.no_grad()
def test_the_error_of_a_layer_is_a_few_percent() -> None:
    # Given
    torch.manual_seed(0)
    layer = nn.Linear(512, 256, dtype=torch.bfloat16)
    layer.weight[3] *= 50  # with its own scale, such a channel does not affect the others
    x = torch.randn(2, 32, 512, dtype=torch.bfloat16)
    # When
    right = layer(x).float()
    found = Float8Linear.of(layer, CPU)(x).float()
    # Then
    assert found.shape == right.shape
    for channels in (slice(3, 4), slice(4, None)):
        off = (found - right)[..., channels].norm() / right[..., channels].norm()
        assert 1e-3 < float(off) < 0.04  # two independent roundings of 2.6 % each add up to 3.7 %


def test_only_layers_that_benefit_are_quantized() -> None:
    # Given a block with video layers, one of them small, and audio layers
    def attention(width: int) -> nn.ModuleDict:
        layers = {name: nn.Linear(width, width, bias=False) for name in ("to_q", "to_k", "to_v", "to_gate_logits")}
        layers["to_gate_logits"] = nn.Linear(width, 32)
        return nn.ModuleDict(layers | {"to_out": nn.ModuleList([nn.Linear(width, width), nn.Dropout()])})

    kinds = ("attn1", "attn2", "audio_attn1", "audio_to_video_attn", "video_to_audio_attn")
    block = nn.ModuleDict({kind: attention(SMALLEST_SIZE) for kind in kinds})
    block["ff"] = nn.Sequential(nn.Linear(SMALLEST_SIZE, 2 * SMALLEST_SIZE), nn.Linear(2 * SMALLEST_SIZE, 64))
    # When
    quantize(block, CPU)
    # Then
    quantized = {name for name, layer in block.named_modules() if isinstance(layer, Float8Linear)}
    assert quantized == {
        *(f"{kind}.{layer}" for kind in ("attn1", "attn2") for layer in ("to_q", "to_k", "to_v", "to_out.0")),
        *("audio_to_video_attn.to_q", "audio_to_video_attn.to_out.0", "ff.0"),
        *("video_to_audio_attn.to_k", "video_to_audio_attn.to_v"),
    }
    assert block.get_submodule("attn1.to_q").weight.element_size() == 1


def test_a_layer_can_be_offloaded_completely() -> None:
    # Given
    layer = Float8Linear.of(nn.Linear(128, 128), CPU)
    # Then all tensors are parameters, as group offloading leaves buffers on the device
    assert dict(layer.named_parameters()).keys() == {"weight", "weight_scale", "bias"}
    assert not list(layer.buffers())
    assert not any(part.requires_grad for part in layer.parameters())
