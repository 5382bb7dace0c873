"""The noise levels that the attention between picture and sound is given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from diffusers import LTX2VideoTransformer3DModel
from torch import Tensor, nn

from ltx2.model.denoising.cross_attention import apply_cross_attention_rule

EMBEDDERS = (
    "av_cross_attn_video_scale_shift",
    "av_cross_attn_video_a2v_gate",
    "av_cross_attn_audio_scale_shift",
    "av_cross_attn_audio_v2a_gate",
    "prompt_adaln",
    "audio_prompt_adaln",
)


def small_transformer() -> Any:
    """One block of LTX-2.5 with 38,622 weights, drawn in the order of `parameters()` from seed 0."""
    made = LTX2VideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=1,
        attention_head_dim=16,
        cross_attention_dim=16,
        audio_in_channels=4,
        audio_out_channels=4,
        audio_num_attention_heads=1,
        audio_attention_head_dim=8,
        audio_cross_attention_dim=8,
        num_layers=1,
        caption_channels=16,
        rope_type="split",
        gated_attn=True,
        audio_gated_attn=True,
        cross_attn_mod=True,
        audio_cross_attn_mod=True,
        use_prompt_embeddings=False,
        perturbed_attn=True,
        ff_bias=False,
        use_keyframes_abs_pos_embedding=True,
    ).eval()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in made.parameters():
            weights.copy_(0.3 * torch.randn(weights.shape, generator=draw))
    return made


def call() -> dict[str, Any]:
    """A call with one pinned video token, two pinned audio tokens, and streams of different noise levels."""
    draw = torch.Generator().manual_seed(1)
    video, audio = torch.randn(1, 3, 4, generator=draw), torch.randn(1, 4, 4, generator=draw)
    text, audio_text = torch.randn(1, 2, 16, generator=draw), torch.randn(1, 2, 8, generator=draw)
    return {
        "hidden_states": video,
        "audio_hidden_states": audio,
        "encoder_hidden_states": text,
        "audio_encoder_hidden_states": audio_text,
        "timestep": torch.tensor([[0.0, 500, 500]]),
        "audio_timestep": torch.tensor([[0.0, 0, 700, 700]]),
        "sigma": torch.tensor([500.0]),
        "audio_sigma": torch.tensor([700.0]),
        "num_frames": 3,
        "height": 1,
        "width": 1,
        "fps": 24.0,
        "audio_num_frames": 4,
        "return_dict": False,
    }


@contextmanager
def inputs_of(transformer: Any) -> Iterator[dict[str, list[float]]]:
    """What each embedder is given in the block."""
    seen: dict[str, list[float]] = {}

    def record(name: str) -> Any:
        def before(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen[name] = args[0].flatten().tolist()

        return before

    hooks = [getattr(transformer, name).register_forward_pre_hook(record(name)) for name in EMBEDDERS]
    yield seen
    for hook in hooks:
        hook.remove()


@torch.no_grad()
@pytest.mark.parametrize("mode", [True, False])
def test_each_embedder_is_given_the_level_of_the_rule(mode: bool) -> None:
    # Given
    transformer = small_transformer()
    apply_cross_attention_rule(transformer)
    # When
    with inputs_of(transformer) as seen:
        transformer(**call(), use_cross_timestep=mode)
    # Then scale and shift go by each token's own level, gates by the other stream's sigma, prompts by the own one
    assert [seen[name] for name in EMBEDDERS] == [[0, 500, 500], [700], [0, 0, 700, 700], [500], [500], [700]]


# Lightricks' ltx-core gives the same numbers with these weights.
RULE = {
    "unmarked": ([-3.48595, -0.74506, -0.30669], [0.33257, 0.14083, 0.69559, 0.85481]),
    "marked": ([-3.57972, -0.62157, -0.32823], [0.27569, 0.12209, 0.70190, 0.86556]),
}


@torch.no_grad()
@pytest.mark.parametrize("name", RULE)
def test_the_output_is_that_of_the_authors_code(name: str) -> None:
    # Given
    transformer = small_transformer()
    marks = torch.tensor([[[1.0], [0.0], [0.0]]]) if name == "marked" else None
    stock = transformer(**call(), video_keyframes_mask=marks, use_cross_timestep=False)
    apply_cross_attention_rule(transformer)
    # When
    video, audio = transformer(**call(), video_keyframes_mask=marks)
    # Then it is the authors', and not that of diffusers alone
    right = RULE[name]
    assert video[0, :, 0].tolist() == pytest.approx(right[0], abs=1e-4)
    assert audio[0, :, 0].tolist() == pytest.approx(right[1], abs=1e-4)
    assert float((audio - stock[1]).abs().max()) > 0.1
