"""Finding and checking LoRAs, and adding them to a transformer's weights."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ltx2.checkpoints.lora import HubLora, Lora, resolve_lora
from ltx2.engine import Engine
from ltx2.errors import CheckpointError
from ltx2.request import SegmentOutput, SegmentRequest
from ltx2.timeline import SegmentShape, first_timing
from tests.ltx2.checkpoint_files import POINTER

LAYERS = ("attn1.to_q", "audio_attn1.to_v", "ff.net.2")
PAIR = {
    "transformer.proj_in.lora_A.weight": torch.ones(1, 16),
    "transformer.proj_in.lora_B.weight": torch.ones(64, 1),
}
REQUEST = SegmentRequest("a boat", 3, 96, 64, first_timing(SegmentShape(9, Fraction(24), 1)))


def factors(engine: Engine, seed: int, *, prefix: str = "diffusion_model", rank: int = 2) -> dict[str, Tensor]:
    """A random LoRA for some layers of every block, with the names that the model's authors use."""
    random = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, layer in engine.pipeline.transformer.named_modules():
        if isinstance(layer, nn.Linear) and name.endswith(LAYERS):
            tensors[f"{prefix}.{name}.lora_A.weight"] = torch.randn(rank, layer.in_features, generator=random)
            tensors[f"{prefix}.{name}.lora_B.weight"] = torch.randn(layer.out_features, rank, generator=random) / 4
    return tensors


@pytest.fixture
def files(engines: dict[str, Engine], tmp_path: Path) -> list[Path]:
    """Two LoRAs for `tiny`; the second has the layer names of diffusers."""
    paths = [tmp_path / "first.safetensors", tmp_path / "second.safetensors"]
    save_file(factors(engines["tiny"], 1), paths[0])
    save_file(factors(engines["tiny"], 2, prefix="transformer", rank=4), paths[1])
    return paths


def load(models: dict[str, Path], *loras: Lora) -> Engine:
    return Engine.load(str(models["tiny"]), loras=loras, device="cpu")


def weights(engine: Engine) -> dict[str, Tensor]:
    return dict(engine.pipeline.transformer.state_dict())


def same(one: SegmentOutput, other: SegmentOutput) -> bool:
    return np.array_equal(one.frames, other.frames) and np.array_equal(one.sound, other.sound)


def test_the_strength_of_a_lora_changes_the_output(
    models: dict[str, Path], engines: dict[str, Engine], files: list[Path]
) -> None:
    # When it is loaded with three strengths
    plain = engines["tiny"].run(REQUEST)
    none, half, whole = (load(models, Lora(str(files[0]), strength)).run(REQUEST) for strength in (0.0, 0.5, 1.0))
    # Then strength 0 changes nothing, and the others give different outputs
    assert same(none, plain)
    assert not same(half, plain)
    assert not same(whole, half)


def test_two_loras_add_up(models: dict[str, Path], engines: dict[str, Engine], files: list[Path]) -> None:
    # When
    fused = weights(load(models, Lora(str(files[0]), 0.8), Lora(str(files[1]), -0.5)))
    # Then the weights of its layers are the plain ones plus both products, and all others are unchanged
    plain = weights(engines["tiny"])
    assert fused.keys() == plain.keys()
    expected = dict(plain)
    for path, strength, prefix in zip(files, (0.8, -0.5), ("diffusion_model.", "transformer."), strict=True):
        tensors = load_file(path)
        for name in [name for name in tensors if "lora_A" in name]:
            layer = name.removeprefix(prefix).replace("lora_A.", "")
            expected[layer] = expected[layer] + strength * tensors[name.replace("lora_A", "lora_B")] @ tensors[name]
    changed = {name for name in plain if not torch.equal(fused[name], plain[name])}
    assert changed == {name for name in plain if name.removesuffix(".weight").endswith(LAYERS)}
    for name, tensor in expected.items():
        torch.testing.assert_close(fused[name], tensor)


def test_a_lora_may_change_the_connectors(models: dict[str, Path], engines: dict[str, Engine], tmp_path: Path) -> None:
    before = engines["tiny"].pipeline.connectors.video_text_proj_in.weight
    down, up = torch.ones(1, before.shape[1]), torch.ones(before.shape[0], 1)
    name = "connectors.video_text_proj_in"
    save_file({f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}, tmp_path / "a.safetensors")
    after = load(models, Lora(str(tmp_path), 0.25)).pipeline.connectors.video_text_proj_in.weight
    torch.testing.assert_close(after, before + 0.25)


def test_a_lora_for_another_model_is_rejected(models: dict[str, Path], files: list[Path]) -> None:
    # Given a LoRA with a layer that the model lacks, and one whose layers are too wide
    tensors = load_file(files[0])
    other = {f"diffusion_model.transformer_blocks.7.attn1.to_q.lora_{side}.weight": torch.ones(2, 2) for side in "AB"}
    save_file(tensors | other, files[0])
    save_file({name: tensor.repeat(1, 2) for name, tensor in tensors.items()}, files[1])
    # When / Then
    with pytest.raises(CheckpointError, match=r"for another model: 1 of its 11 layers .*\.7\.attn1\.to_q"):
        load(models, Lora(str(files[0])))
    with pytest.raises(CheckpointError, match="for another model: 10 of its 10 layers do not fit"):
        load(models, Lora(str(files[1])))


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"weight": torch.ones(1)},
        {"diffusion_model.x.alpha": torch.ones(1)},
        PAIR | {"transformer.proj_in.alpha": torch.ones(1)},
        PAIR | {"transformer.proj_in.dora_scale": torch.ones(64)},
        PAIR | {"text_encoder.proj_in.lora_A.weight": torch.ones(1, 16)},
        {"transformer.proj_in.lokr_w1": torch.ones(2, 2)},
    ],
)
def test_tensors_that_are_not_a_lora_are_rejected(
    models: dict[str, Path], tmp_path: Path, tensors: dict[str, Tensor]
) -> None:
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="has tensors that are not pairs of factors for LTX-2"):
        load(models, Lora(str(tmp_path)))


def test_half_a_pair_is_rejected(models: dict[str, Path], files: list[Path]) -> None:
    tensors = load_file(files[0])
    tensors.pop(next(iter(tensors)))
    save_file(tensors, files[0])
    with pytest.raises(CheckpointError, match="for another model: 1 of its 10 layers"):
        load(models, Lora(str(files[0])))


def test_a_file_a_folder_and_a_hub_id_are_resolved(files: list[Path]) -> None:
    assert resolve_lora(str(files[0])) == files[0]
    files[1].unlink()
    assert resolve_lora(str(files[0].parent)) == files[0]
    assert resolve_lora("owner/name") == HubLora("owner/name")
    assert resolve_lora("owner/name@refs/pr/4:loras/a.safetensors") == HubLora(
        "owner/name", "refs/pr/4", "loras/a.safetensors"
    )


@pytest.mark.parametrize(
    "path",
    [
        *("", "absent", "/no/such.safetensors", "./a/b", "~/no/such", "a/b/c.safetensors", "a/b:c.bin"),
        *("a/b:../c.safetensors", "a/b@../x", "x\0", "x" * 9999),
    ],
)
def test_a_name_that_is_not_a_lora_is_rejected(path: str) -> None:
    with pytest.raises(CheckpointError, match="no such LoRA: "):
        resolve_lora(path)


def test_an_invalid_lora_file_is_rejected(files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has 2 \.safetensors files, first.safetensors and 1 more"):
        resolve_lora(str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"has no \.safetensors file"):
        resolve_lora(str(tmp_path / "empty"))
    torch.save({}, tmp_path / "a.bin")
    with pytest.raises(CheckpointError, match=r"a LoRA must be a \.safetensors file"):
        resolve_lora(str(tmp_path / "a.bin"))
    files[0].write_bytes(files[0].read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="its header declares"):
        resolve_lora(str(files[0]))
    files[1].write_bytes(POINTER)
    with pytest.raises(CheckpointError, match="is a Git LFS pointer"):
        resolve_lora(str(files[1]))
