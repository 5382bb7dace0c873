"""The names of tensors in the authors' files and in diffusers, both ways, over all tensors of the published sizes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from accelerate import init_empty_weights
from diffusers import AutoencoderKLLTX2Audio, AutoencoderKLLTX2Video, LTX2VideoTransformer3DModel
from diffusers.pipelines.ltx2 import LTX2TextConnectors, LTX2Vocoder, LTX2VocoderWithBWE

from ltx2.checkpoints.files.authors_configs import (
    audio_vae_config,
    connectors_config,
    transformer_config,
    vae_config,
    version_of_names,
    vocoder_config,
)
from ltx2.checkpoints.files.authors_names import place_of
from tests.ltx2.exported_files import PREFIX, authors_name

NEWER_TRANSFORMER = {
    **dict.fromkeys(("gated_attn", "audio_gated_attn", "cross_attn_mod", "audio_cross_attn_mod"), True),
    "use_prompt_embeddings": False,
    "perturbed_attn": True,
}
STREAMS = {
    f"{stream}_{key}": value
    for stream, size in (("video", 128), ("audio", 64))
    for key, value in {
        "connector_num_attention_heads": 32,
        "connector_attention_head_dim": size,
        "connector_num_layers": 8,
        "gated_attn": True,
        "hidden_dim": 32 * size,
    }.items()
}
NEWER_VAE = {
    "block_out_channels": (256, 512, 1024, 1024),
    "decoder_block_out_channels": (256, 512, 512, 1024),
    "layers_per_block": (4, 6, 4, 2, 2),
    "decoder_layers_per_block": (4, 6, 4, 2, 2),
    "decoder_spatio_temporal_scaling": (True,) * 4,
    "decoder_inject_noise": (False,) * 5,
    "upsample_type": ("spatiotemporal", "spatiotemporal", "temporal", "spatial"),
    "upsample_residual": (False,) * 4,
    "upsample_factor": (2, 2, 1, 2),
    "decoder_spatial_padding_mode": "zeros",
}
VAE = {"decoder_causal": False, "spatial_compression_ratio": 32, "temporal_compression_ratio": 8}


def published(version: str) -> dict[str, Any]:
    """The components of the published sizes, without memory."""
    newer = version != "2.0"
    settings = {"rope_type": "split", **(NEWER_TRANSFORMER if newer else {})}
    if version == "2.5":
        settings |= {"ff_bias": False, "use_keyframes_abs_pos_embedding": True}
    connectors = {**STREAMS, "per_modality_projections": True, "proj_bias": True} if newer else {}
    with init_empty_weights():
        return {
            "transformer": LTX2VideoTransformer3DModel(**settings),
            "connectors": LTX2TextConnectors(rope_type="split", **connectors),
            "vae": AutoencoderKLLTX2Video(**VAE, **(NEWER_VAE if newer else {})),
            "audio_vae": AutoencoderKLLTX2Audio(),
            "vocoder": LTX2VocoderWithBWE() if newer else LTX2Vocoder(),
        }


def shapes_of(component: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in component.state_dict().items()}


@pytest.mark.parametrize(
    ("version", "counts"),
    [
        ("2.0", {"transformer": 3510, "audio_vae": 102}),
        ("2.3", {"transformer": 4186, "vae": 170, "audio_vae": 102, "vocoder": 1227}),
        ("2.5", {"transformer": 4091, "connectors": 262, "vae": 170, "audio_vae": 102, "vocoder": 1227}),
    ],
)
def test_no_name_is_missing_or_left(version: str, counts: dict[str, int]) -> None:
    # Given
    components = published(version)
    places = {(component, name) for component, model in components.items() for name in shapes_of(model)}
    written = {authors_name(*place): place for place in places}
    # Then every tensor has its own name, and comes back to its place, with the prefix of a file or without
    assert len(written) == len(places)
    assert {name: place_of(name) for name in written} == written
    bare = {name.removeprefix(PREFIX): place for name, place in written.items()}
    assert {name: place_of(name) for name in bare} == bare
    assert {
        name.removeprefix("vae."): place_of(name.removeprefix("vae.")) for name in written if name[:4] == "vae."
    } == {name.removeprefix("vae."): place for name, place in written.items() if place[0] == "vae"}
    # and names of diffusers stay, where a file has them
    for component in ("transformer", "connectors"):
        assert all(place_of(name) == (component, name) for name in shapes_of(components[component]))
    # and there are as many as in the published files
    found = Counter(component for component, _ in places)
    assert {component: found[component] for component in counts} == counts
    assert version_of_names(written) == version


@pytest.mark.parametrize("version", ["2.0", "2.3", "2.5"])
def test_configs_follow_from_shapes(version: str) -> None:
    components = published(version)
    shapes = {name: shapes_of(model) for name, model in components.items()}
    found = {
        "transformer": transformer_config(shapes["transformer"], {}),
        "connectors": connectors_config(shapes["connectors"], {}, None),
        "vae": vae_config(shapes["vae"], {}),
        "audio_vae": audio_vae_config(shapes["audio_vae"], {}),
        "vocoder": vocoder_config(shapes["vocoder"], {}),
    }
    for name, model in components.items():
        with init_empty_weights():
            built = type(model).from_config(found[name])
        ours, theirs = (
            {key: list(value) if isinstance(value, tuple) else value for key, value in one.config.items()}
            for one in (built, model)
        )
        assert {key: value for key, value in ours.items() if key[0] != "_"} == {
            key: value for key, value in theirs.items() if key[0] != "_"
        }


def test_the_header_has_what_shapes_do_not_tell() -> None:
    shapes = {name: shapes_of(model) for name, model in published("2.0").items()}
    # When
    written = {
        "num_attention_heads": 16,
        "audio_num_attention_heads": 8,
        "frequencies_precision": "float32",
        "positional_embedding_max_pos": [10, 1024, 512],
        "audio_positional_embedding_max_pos": [12],
    }
    found = transformer_config(shapes["transformer"], written)
    # Then
    assert (found["num_attention_heads"], found["attention_head_dim"]) == (16, 256)
    assert (found["audio_num_attention_heads"], found["audio_attention_head_dim"]) == (8, 256)
    assert found["rope_double_precision"] is False
    assert [found[key] for key in ("pos_embed_max_pos", "base_height", "base_width")] == [10, 1024, 512]
    assert found["audio_pos_embed_max_pos"] == 12
    vae = vae_config(shapes["vae"], {"spatial_padding_mode": "zeros", "causal_decoder": True})
    assert (vae["decoder_spatial_padding_mode"], vae["decoder_causal"]) == ("zeros", True)


@pytest.mark.parametrize(
    "name", ["duration_head.x", "vae.per_channel_statistics.mean-of-stds", "vision_model.x", "tokenizer_json"]
)
def test_what_is_not_needed_has_no_place(name: str) -> None:
    assert place_of(name) is None
