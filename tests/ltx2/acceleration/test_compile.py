from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from diffusers import LTX2VideoTransformer3DModel
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch._inductor import config as inductor

from ltx2.acceleration.compile import compile_blocks, speed_up
from ltx2.engine import Engine
from ltx2.model.denoising.cross_attention import apply_cross_attention_rule
from ltx2.model.denoising.denoiser import _enable_stg
from ltx2.model.denoising.first_latent import mark_first_latents
from ltx2.parallel.exchange import Name

CPU = torch.device("cpu")
TOKENS, LATENTS, SIGMA = 24, 10, 725.0


@pytest.fixture(params=["2.0", "2.3", "2.3 interleaved", "2.5"])
def stock(request: pytest.FixtureRequest, engines: dict[str, Engine]) -> Any:
    """diffusers' transformer of each kind, with weights so large that every term of a block matters."""
    engine = engines[{"2.0": "tiny-2.0", "2.5": "tiny-2.5"}.get(request.param, "tiny")]
    settings = dict(engine.pipeline.transformer.config)
    if "interleaved" in request.param:
        settings["rope_type"] = "interleaved"
    torch.manual_seed(0)
    transformer = LTX2VideoTransformer3DModel.from_config(settings).eval()
    with torch.no_grad():
        for weights in transformer.parameters():
            weights.normal_(0, 0.2)
    apply_cross_attention_rule(transformer)
    mark_first_latents(transformer)
    return transformer


def call_of(
    transformer: Any, *, batch: int = 1, clean: Any = range(6), latents: int = LATENTS, level: float = 0, **more: Any
) -> dict[str, Any]:
    """Arguments of a call.

    clean: the video tokens that have the noise level `level`, as do the first 4 audio latents; the others have SIGMA.
    """
    config, draw = transformer.config, torch.Generator().manual_seed(1)

    def noise(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=draw)

    sigma = torch.full((batch,), SIGMA)
    timestep, audio_timestep = sigma[:, None].repeat(1, TOKENS), sigma[:, None].repeat(1, latents)
    timestep[:, list(clean)], audio_timestep[:, :4] = level, level
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
        {"clean": ()},
        {"clean": range(18, 24)},
        {"clean": (0, 3, 4, 11, 23)},
        {"clean": range(24)},
        {"clean": range(12), "level": 100.0},
        {"clean": range(18, 24), "audio_timestep": torch.zeros(1, LATENTS), "audio_sigma": torch.zeros(1)},
        {"batch": 2},
        {"batch": 2, "timestep": torch.tensor([[0.0] * 6 + [SIGMA] * 18, [SIGMA] * 20 + [0.0] * 4])},
        {"isolate_modalities": True},
        {"audio_timestep": torch.tensor([SIGMA])},
        {"encoder_attention_mask": torch.tensor([[1.0, 1, 1, 1, 1, 1, 0, 0]])},
        {"spatio_temporal_guidance_blocks": [1]},
    ],
    ids=str,
)
def test_fast_blocks_give_the_output_of_stock_blocks(stock: Any, more: dict[str, Any]) -> None:
    # Given
    _enable_stg(stock, (1,))  # as for every guided model; otherwise 2.0 ignores it
    fast = copy.deepcopy(stock)
    speed_up(fast, float8=False, device=CPU)
    # When / Then
    call = call_of(stock, **more)
    assert error(fast(**call), stock(**call)) < 2e-6


@torch.no_grad()
def test_a_token_with_a_wrong_noise_level_changes_the_output(stock: Any) -> None:
    fast = copy.deepcopy(stock)
    speed_up(fast, float8=False, device=CPU)
    assert error(fast(**call_of(stock, clean=range(7))), stock(**call_of(stock, clean=range(6)))) > 1e-4


@torch.no_grad()
def test_all_blocks_share_one_compiled_graph_per_shape(stock: Any, tmp_path: Path) -> None:
    # Given
    fast = copy.deepcopy(stock)
    speed_up(fast, float8=False, device=CPU)
    compile_blocks(fast, "eager", tmp_path)
    torch._dynamo.reset()
    counters.clear()
    # When two shapes alternate, with different clean tokens
    for clean in (range(0), range(6), range(20, 24)):
        for latents in (LATENTS, LATENTS + 4):
            call = call_of(stock, clean=clean, latents=latents)
            assert error(fast(**call), stock(**call)) < 2e-6
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


class RecordedExchange:
    """The exchanges of a single process, which write into `events` when they start and end."""

    def __init__(self, events: list[str]) -> None:
        self.events = events

    def start_heads(self, x: Tensor, name: Name) -> tuple[Tensor, Name]:
        self.events.append(f"start {name}")
        return x, name

    def heads(self, started: tuple[Tensor, Name]) -> Tensor:
        self.events.append(f"end {started[1]}")
        return started[0]

    def own_heads(self, x: Tensor) -> Tensor:
        return x

    start_tokens = start_all_heads = start_heads
    tokens = all_heads = heads


@torch.no_grad()
def test_products_are_computed_while_an_exchange_is_under_way(stock: Any) -> None:
    # Given
    events: list[str] = []
    fast = copy.deepcopy(stock)
    speed_up(fast, float8=False, device=CPU)
    block = fast.transformer_blocks[0]
    fast.transformer_blocks = nn.ModuleList([block])
    block.tokens.exchange = RecordedExchange(events)
    for layer in block.modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(lambda *_: events.append("product"))
    # When
    fast(**call_of(stock))
    # Then
    for name in get_args(Name):
        assert "product" in events[events.index(f"start {name}") : events.index(f"end {name}")], name
