from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.utils import counters

from ltx2.acceleration.compile import compile_blocks, speed_up
from ltx2.acceleration.fp8 import to_float8
from ltx2.acceleration.fp8_attention import Attention, attend_float8, attention_of, largest_normalised
from ltx2.engine import Engine
from ltx2.errors import DeviceError
from ltx2.model.denoising.denoiser import _enable_stg
from tests.ltx2.acceleration.test_compile import call_of, error, stock  # noqa: F401 - a fixture

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
HEADS, CHANNELS = 4, 32


def inputs(tokens: int, seed: int = 0, magnitude: float = 1.0) -> tuple[Tensor, Tensor, Tensor, nn.RMSNorm]:
    """Normalised queries and keys, values of this magnitude, and the norm; some channels are large in every token."""
    torch.manual_seed(seed)
    norm = nn.RMSNorm(HEADS * CHANNELS)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    common = torch.randn(HEADS * CHANNELS)
    query, key = (norm(torch.randn(1, tokens, HEADS * CHANNELS) + common) for _ in range(2))
    value = magnitude * torch.randn(1, tokens, HEADS * CHANNELS)
    query, key, value = (part.detach().view(1, tokens, HEADS, CHANNELS) for part in (query, key, value))
    return query, key, value, norm


def exact(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in (query, key, value))).transpose(1, 2)


@torch.no_grad()
@pytest.mark.parametrize("magnitude", [1e-6, 1.0, 1e6])
def test_the_error_is_below_a_tenth_for_values_of_any_magnitude(magnitude: float) -> None:
    query, key, value, norm = inputs(200, magnitude=magnitude)
    found = attend_float8(query, key, value, norm, norm)
    right = exact(query, key, value)
    assert 1e-3 < float((found - right).norm() / right.norm()) < 0.1


@torch.no_grad()
def test_nothing_is_clipped_where_one_channel_has_all_energy() -> None:
    # Given
    norm = nn.RMSNorm(64)
    nn.init.constant_(norm.weight, 3)
    x = torch.zeros(1, 1, 64)
    x[0, 0, 5] = -1e4
    # When
    rounded, step = to_float8(norm(x), largest_normalised(norm, x))
    # Then the largest number of float8 is used
    assert float(rounded[0, 0, 5].float() * step) == pytest.approx(-3 * math.sqrt(64), rel=1e-6)
    assert float(rounded.float().abs().max()) == 448


@torch.no_grad()
def test_the_same_input_gives_the_same_bytes_after_any_other() -> None:
    query, key, value, norm = inputs(50)
    before = attend_float8(query, key, value, norm, norm)
    attend_float8(*inputs(50, seed=1, magnitude=100), norm)
    assert torch.equal(before, attend_float8(query, key, value, norm, norm))


@torch.no_grad()
def test_values_that_are_not_finite_are_not_hidden() -> None:
    query, key, value, norm = inputs(50)
    value[0, 7, 1, 3] = torch.nan
    assert not attend_float8(query, key, value, norm, norm).isfinite().any()


@torch.no_grad()
def test_only_the_self_attention_of_the_picture_changes(stock: Any) -> None:  # noqa: F811
    # Given
    right, found = copy.deepcopy(stock), copy.deepcopy(stock)
    speed_up(right, float8=False, device=CPU)
    speed_up(found, float8=False, device=CPU, float8_attention=True)
    # When / Then
    assert 1e-4 < error(found(**call_of(stock)), right(**call_of(stock))) < 0.1
    # And where it is skipped in all blocks, nothing changes
    _enable_stg(right, (0, 1)), _enable_stg(found, (0, 1))
    skipped = call_of(stock, spatio_temporal_guidance_blocks=[0, 1])
    assert error(found(**skipped), right(**skipped)) < 2e-6


@torch.no_grad()
def test_compiled_blocks_compute_the_same_in_one_graph(engines: dict[str, Engine], tmp_path: Path) -> None:
    # Given
    right = copy.deepcopy(engines["tiny"].pipeline.transformer)
    speed_up(right, float8=False, device=CPU, float8_attention=True)
    found = copy.deepcopy(right)
    torch._dynamo.reset()
    compile_blocks(found, "aot_eager", tmp_path)
    graphs = counters["stats"]["unique_graphs"]
    # When / Then
    call = call_of(right)
    assert error(found(**call), right(**call)) < 0.01
    assert counters["stats"]["unique_graphs"] == graphs + 1


@pytest.mark.parametrize(
    ("name", "precision", "expected"),
    [("auto", "bf16", Attention.BF16), ("auto", "fp8", Attention.BF16), ("bf16", "fp8", Attention.BF16)],
)
def test_a_cpu_computes_in_the_dtype_of_the_model(name: str, precision: str, expected: Attention) -> None:
    assert attention_of(name, CPU, precision, CHANNELS) == expected


def test_float8_attention_is_refused_by_name_where_it_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a CPU, GPUs without it, and one whose library is missing or cannot compute it
    def refused(message: str, device: torch.device, channels: int = CHANNELS) -> None:
        with pytest.raises(DeviceError, match=f"^attention is fp8, {message}"):
            attention_of("fp8", device, "bf16", channels)
        assert attention_of("auto", device, "fp8", channels) == Attention.BF16

    refused("which needs a GPU, but the device is cpu$", CPU)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA L4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 9))
    refused(r"but NVIDIA L4 does not have it \(it needs Hopper or later, compute capability 9.0\)$", CUDA)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    refused("but the model's heads have 40 channels, not a multiple of 16$", CUDA, 40)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    refused(
        r"which needs nvidia-cudnn-frontend: `.venv/bin/pip install --editable \"\.\[fp8-attention\]\" --constraint",
        CUDA,
    )
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    monkeypatch.setattr("ltx2.acceleration.fp8_attention._plan", lambda *_: 1 / 0)
    refused("but this host's cuDNN cannot compute it: division by zero$", CUDA)
    # And another name is an error
    with pytest.raises(ValueError, match=r"^attention is 'int8'; it must be auto or one of bf16, fp8$"):
        attention_of("int8", CPU, "bf16", CHANNELS)


@pytest.mark.gpu
@torch.no_grad()
def test_cudnn_computes_what_the_cpu_does() -> None:
    # Given
    pytest.importorskip("cudnn", reason="needs longtake[fp8-attention]")
    query, key, value, norm = inputs(1001)
    on_gpu = [part.to(CUDA).bfloat16() for part in (query, key, value)]
    norm_on_gpu = copy.deepcopy(norm).to(CUDA)
    # When
    found = attend_float8(*on_gpu, norm_on_gpu, norm_on_gpu)
    # Then
    right = attend_float8(query, key, value, norm, norm)
    assert float((found.cpu().float() - right).norm() / right.norm()) < 0.04
    assert torch.equal(found, attend_float8(*on_gpu, norm_on_gpu, norm_on_gpu))
