from __future__ import annotations

import pytest
import torch
from torch import nn

from ltx2.acceleration.int8 import Int8Linear, quantize_linears

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_a_weight_is_off_by_at_most_half_a_level_of_its_row(dtype: torch.dtype, bias: bool) -> None:
    # Given rows of very different sizes, one of them all zeros
    torch.manual_seed(0)
    linear = nn.Linear(64, 5, bias=bias, dtype=dtype)
    with torch.no_grad():
        linear.weight.mul_(torch.tensor([1.0, 1000.0, 1e-3, 1.0, 0.0], dtype=dtype)[:, None])
    # When
    converted = Int8Linear.of(linear, CPU)
    # Then
    assert converted.weight.dtype == torch.int8
    restored = converted.weight.float() * converted.scale[:, None]
    largest = linear.weight.float().abs().amax(dim=1, keepdim=True)
    assert bool(((restored - linear.weight.float()).abs() <= 0.5001 * largest / 127).all())
    # And the product is that of the restored weights, in the input's dtype
    x = torch.randn(2, 3, 64, dtype=dtype)
    exact = nn.functional.linear(x.float(), restored, linear.bias.float() if bias else None)
    assert converted(x).dtype == dtype
    torch.testing.assert_close(converted(x).float(), exact, rtol=0.02 if dtype == torch.bfloat16 else 1e-5, atol=1e-3)


def test_all_linear_layers_are_replaced_and_nothing_else() -> None:
    # Given
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Sequential(nn.Linear(8, 4, bias=False)))
    model.requires_grad_(False)
    before = model(torch.ones(1, 8))
    # When
    quantize_linears(model, CPU)
    # Then
    assert [type(layer) for layer in model.modules() if not list(layer.children())] == [
        Int8Linear,
        nn.LayerNorm,
        Int8Linear,
    ]
    assert float((model(torch.ones(1, 8)) - before).norm() / before.norm()) < 0.02
