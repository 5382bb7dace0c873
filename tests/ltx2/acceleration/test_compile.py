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
    """diffusers' transformer of each kind, its weights large enough that every term of a block counts."""
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
    """A call with `clean` leading video tokens and 4 leading audio latents without noise."""
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
def test_it_is_the_same_function(stock: Any, more: dict[str, Any]) -> None:
    # Given
    _enable_stg(stock, (1,))  # as for every model that is guided; 2.0 would ignore it
    quick = copy.deepcopy(stock)
    speed_up(quick, float8=False, device=CPU)
    # When / Then
    call = call_of(stock, **more)
    assert error(quick(**call), stock(**call)) < 1e-6


@torch.no_grad()
def test_a_token_with_the_wrong_noise_level_would_be_seen(stock: Any) -> None:
    quick = copy.deepcopy(stock)
    speed_up(quick, float8=False, device=CPU)
    assert error(quick(**call_of(stock, clean=7)), stock(**call_of(stock, clean=6))) > 1e-4


@torch.no_grad()
def test_all_blocks_share_what_is_compiled_once_per_shape(stock: Any, tmp_path: Path) -> None:
    # Given
    quick = copy.deepcopy(stock)
    speed_up(quick, float8=False, device=CPU)
    compile_blocks(quick, "eager", tmp_path)
    torch._dynamo.reset()
    counters.clear()
    # When two shapes take turns, with other values, more or fewer clean tokens
    for clean in (0, 6, 9):
        for latents in (LATENTS, LATENTS + 4):
            call = call_of(stock, clean=clean, latents=latents)
            assert error(quick(**call), stock(**call)) < 1e-6
    # Then
    assert counters["stats"]["unique_graphs"] == 2
    assert not counters["graph_break"]


def test_kernels_are_not_chosen_by_their_speed_which_gives_other_bytes_elsewhere(stock: Any, tmp_path: Path) -> None:
    # Given
    with inductor.patch(deterministic=False):
        # When
        compile_blocks(copy.deepcopy(stock), "inductor", tmp_path)
        # Then
        assert inductor.deterministic
