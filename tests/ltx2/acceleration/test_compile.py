from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import LTX2VideoTransformer3DModel
from torch import Tensor
from torch._dynamo.utils import counters
from torch._inductor import config as inductor

from ltx2.acceleration.compile import compile_blocks, speed_up
from ltx2.engine import Engine
from ltx2.model.denoiser import _enable_stg

CPU = torch.device("cpu")
TOKENS, LATENTS, SIGMA = 24, 10, 725.0


@pytest.fixture(params=["2.0", "2.3", "2.3 interleaved"])
def stock(request: pytest.FixtureRequest, engines: dict[str, Engine]) -> Any:
    """diffusers' transformer of each kind, with weights so large that every term of a block matters."""
    engine = engines["tiny" if request.param.startswith("2.3") else "tiny-2.0"]
    settings = dict(engine.pipeline.transformer.config)
    if "interleaved" in request.param:
        settings["rope_type"] = "interleaved"
    torch.manual_seed(0)
    transformer = LTX2VideoTransformer3DModel.from_config(settings).eval()
    with torch.no_grad():
        for weights in transformer.parameters():
            weights.normal_(0, 0.2)
    return transformer


def call_of(transformer: Any, *, batch: int = 1, clean: int = 6, latents: int = LATENTS, **more: Any) -> dict[str, Any]:
    """Arguments of a call whose first `clean` video tokens and first 4 audio latents have no noise."""
    config, draw = transformer.config, torch.Generator().manual_seed(1)

    def noise(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=draw)

    sigma = torch.full((batch,), SIGMA)
    timestep, audio_timestep = sigma[:, None].repeat(1, TOKENS), sigma[:, None].repeat(1, latents)
    timestep[:, :clean], audio_timestep[:, :4] = 0, 0
    new = config.cross_attn_mod
    usual = {
        "hidden_states": noise(TOKENS, config.in_channels),
        "audio_hidden_states": noise(latents, config.audio_in_channels),
        "encoder_hidden_states": noise(8, config.cross_attention_dim if new else config.caption_channels),
        "audio_encoder_hidden_states": noise(8, config.audio_cross_attention_dim if new else config.caption_channels),
        "timestep": timestep,
        "audio_timestep": audio_timestep,
        "sigma": sigma,
        "audio_sigma": sigma,
        "num_frames": 4,
        "height": 2,
        "width": 3,
        "fps": 24.0,
        "audio_num_frames": latents,
        "use_cross_timestep": new,
        "return_dict": False,
    }
    return usual | more


def error(found: tuple[Tensor, ...], right: tuple[Tensor, ...]) -> float:
    """The larger relative error of the two streams."""
    return max(float((one - two).norm() / two.norm()) for one, two in zip(found, right, strict=True))


@torch.no_grad()
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"clean": 0},
        {"batch": 2},
        {"isolate_modalities": True},
        {"audio_timestep": torch.tensor([SIGMA])},
        {"encoder_attention_mask": torch.tensor([[1.0, 1, 1, 1, 1, 1, 0, 0]])},
        {"spatio_temporal_guidance_blocks": [1]},
    ],
    ids=lambda more: ", ".join(more) or "plain",
)
def test_fast_blocks_give_the_output_of_stock_blocks(stock: Any, more: dict[str, Any]) -> None:
    # Given
    _enable_stg(stock, (1,))  # as for every guided model; otherwise 2.0 ignores it
    fast = copy.deepcopy(stock)
    speed_up(fast, float8=False, device=CPU)
    # When / Then
    call = call_of(stock, **more)
    assert error(fast(**call), stock(**call)) < 1e-6


@torch.no_grad()
def test_a_token_with_a_wrong_noise_level_changes_the_output(stock: Any) -> None:
    fast = copy.deepcopy(stock)
    speed_up(fast, float8=False, device=CPU)
    assert error(fast(**call_of(stock, clean=7)), stock(**call_of(stock, clean=6))) > 1e-4


@torch.no_grad()
def test_all_blocks_share_one_compiled_graph_per_shape(stock: Any, tmp_path: Path) -> None:
    # Given
    fast = copy.deepcopy(stock)
    speed_up(fast, float8=False, device=CPU)
    compile_blocks(fast, "eager", tmp_path)
    torch._dynamo.reset()
    counters.clear()
    # When two shapes alternate, with different numbers of clean tokens
    for clean in (0, 6, 9):
        for latents in (LATENTS, LATENTS + 4):
            call = call_of(stock, clean=clean, latents=latents)
            assert error(fast(**call), stock(**call)) < 1e-6
    # Then
    assert counters["stats"]["unique_graphs"] == 2
    assert not counters["graph_break"]


def test_kernels_are_chosen_deterministically_not_by_their_speed(stock: Any, tmp_path: Path) -> None:
    # Given
    with inductor.patch(deterministic=False):
        # When
        compile_blocks(copy.deepcopy(stock), "inductor", tmp_path)
        # Then
        assert inductor.deterministic
