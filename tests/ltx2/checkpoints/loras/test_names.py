"""The layers that a LoRA's names mean, as trainers and the model's authors write them."""

from __future__ import annotations

import pytest
from torch import nn

from ltx2.checkpoints.loras.names import Layer, LayerNames, Role, parse
from ltx2.engine import Engine
from tests.ltx2.exported_files import lora_name


@pytest.mark.parametrize(
    "style",
    [
        *("", "component.", "transformer.", "base_model.model.", "base_model.model.transformer.", "lora_unet_"),
        *("authors:", "authors:diffusion_model.", "authors:model.diffusion_model.", "authors:lora_unet_"),
        *("authors:base_model.model.diffusion_model.", "authors:lora_unet_model_", "lora_transformer_"),
        "lora_transformer.",
    ],
)
def test_every_layer_is_found_by_the_names_of_all_trainers(engine: Engine, style: str) -> None:
    # Given all layers of 2.0 and of 2.3
    layers = [
        Layer(component, name)
        for component in ("transformer", "connectors")
        for name, module in getattr(engine.pipeline, component).named_modules()
        if isinstance(module, nn.Linear)
    ]
    names = LayerNames(layers)
    # When / Then
    assert len({str(layer) for layer in layers}) > 80
    found = [names.layer(lora_name(layer.component, layer.name, style)) for layer in layers]
    assert found == layers


def test_factors_have_the_suffixes_of_all_trainers() -> None:
    for down, up in (
        ("lora_A.weight", "lora_B.weight"),
        ("lora_A.default.weight", "lora_B.default.weight"),  # peft, with the name of an adapter
        ("lora_A.rain_2.weight", "lora_B.rain_2.weight"),
        ("lora_down.weight", "lora_up.weight"),
        ("lora.down.weight", "lora.up.weight"),
    ):
        assert parse(f"proj_in.{down}") == ("proj_in", Role.DOWN)
        assert parse(f"proj_in.{up}") == ("proj_in", Role.UP)
    for other in ("lora_A.a.b.weight", "lora_mid.weight", "diff", "diff_b", "lokr_w1", "hada_w1_a"):
        assert parse(f"proj_in.{other}") is None


@pytest.mark.parametrize(
    "name", ["", "transformer", "transformer.", "attn1.to_q", "lora_unet_", "lora_te_x", "x.proj_in"]
)
def test_other_names_are_of_no_layer(name: str) -> None:
    assert (
        LayerNames([Layer("transformer", "proj_in"), Layer("transformer", "blocks.0.attn1.to_q")]).layer(name) is None
    )
