"""The duration head: its answers, its files, and models that have none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers.pipelines.ltx2 import LTX2DurationHead
from safetensors.torch import save_file

from ltx2.checkpoints.duration_head import DURATION_FOLDER, head_in_files
from ltx2.engine import Engine
from ltx2.errors import CheckpointError, RequestError
from ltx2.model.duration import DurationHead
from ltx2.model.weights.file_loading import load_component

PROMPTS = ("a boat", "a boat leaves the harbour at dawn while gulls follow the boat over the quiet sea")


def head_of(model: Path, engine: Engine) -> DurationHead:
    """The head of another checkpoint, for the prompts of an engine."""
    return DurationHead(model, engine.prompts, engine._loras, None)


def test_the_answer_is_that_of_diffusers_and_the_same_each_time(
    models: dict[str, Path], engines: dict[str, Engine]
) -> None:
    # Given the head of a checkpoint, as diffusers loads it
    engine = engines["tiny-2.5"]
    head = LTX2DurationHead.from_pretrained(models["tiny-2.5"] / DURATION_FOLDER)
    for prompt in PROMPTS:
        encoded = engine.prompts.encode(prompt)
        with torch.no_grad():
            expected = float(head(encoded.video, encoded.audio))
        # When / Then
        assert engine.duration(prompt) == engine.duration(prompt) == pytest.approx(expected, rel=1e-5)
        assert 1 < expected < 20
    assert len({engine.duration(prompt) for prompt in PROMPTS}) == 2


@pytest.mark.parametrize(("bias", "seconds"), [(-9.0, 1.0), (9.0, 20.0)])
def test_the_answer_is_between_1_and_20_seconds(
    models: dict[str, Path], engines: dict[str, Engine], tmp_path: Path, bias: float, seconds: float
) -> None:
    head = LTX2DurationHead.from_pretrained(models["tiny-2.5"] / DURATION_FOLDER)
    head.mlp_out.bias.data.fill_(bias)
    head.save_pretrained(tmp_path / DURATION_FOLDER)
    assert head_of(tmp_path, engines["tiny-2.5"])("a boat") == seconds


@pytest.mark.parametrize("prefix", ["duration_head.", "model.diffusion_model.duration_head."])
def test_it_is_found_in_a_file_of_the_authors(models: dict[str, Path], tmp_path: Path, prefix: str) -> None:
    # Given the same head as a file of its own in a folder of ComfyUI, its three projections as one tensor
    head = LTX2DurationHead.from_pretrained(models["tiny-2.5"] / DURATION_FOLDER)
    tensors = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    for kind in ("weight", "bias"):
        parts = [tensors.pop(f"attention_pooler.to_{part}.{kind}") for part in "qkv"]
        tensors[f"attention_pooler.cross_attn.in_proj_{kind}"] = torch.cat(parts)
        tensors[f"attention_pooler.cross_attn.out_proj.{kind}"] = tensors.pop(f"attention_pooler.to_out.{kind}")
    (tmp_path / "model_patches").mkdir()
    (tmp_path / "diffusion_models").mkdir()
    file = tmp_path / "model_patches" / "duration-head.safetensors"
    save_file({prefix + name: tensor for name, tensor in tensors.items()}, file)
    # When
    found = head_in_files(tmp_path / "diffusion_models" / "ltx.safetensors")
    # Then
    assert found is not None
    assert found.files == (file,)
    loaded = load_component(LTX2DurationHead, found, torch.float32)
    assert loaded.config.num_queries == 1
    for name, tensor in head.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    # And one that lacks a tensor is refused
    tensors.pop("mlp_hidden.weight")
    save_file({prefix + name: tensor for name, tensor in tensors.items()}, file)
    with pytest.raises(CheckpointError, match="a tensor of its duration head is missing"):
        head_in_files(tmp_path / "diffusion_models" / "ltx.safetensors")


def test_models_without_one_are_refused_by_name(engines: dict[str, Engine]) -> None:
    with pytest.raises(RequestError, match=r"tiny-r\d has no duration_head: use a model that has one"):
        engines["tiny"].duration("a boat")


def test_a_head_of_another_model_is_refused(
    models: dict[str, Path], engines: dict[str, Engine], tmp_path: Path
) -> None:
    LTX2DurationHead(8, 8, 8, 1, 4, 8).save_pretrained(tmp_path / DURATION_FOLDER)
    with pytest.raises(CheckpointError, match="that of another model"):
        head_of(tmp_path, engines["tiny-2.5"])("a boat")
