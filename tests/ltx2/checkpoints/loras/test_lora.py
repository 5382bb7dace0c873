"""Finding and checking LoRAs, and adding them to a transformer's weights."""

from __future__ import annotations

import json
import os
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ltx2.acceleration.fp8 import Float8Linear
from ltx2.checkpoints.hub_names import HubName
from ltx2.checkpoints.loras.file import read_lora
from ltx2.checkpoints.loras.lora import Lora, resolve_lora
from ltx2.engine import Engine
from ltx2.errors import CheckpointError, UnsupportedModelError
from ltx2.model.weights.lora_fusion import _Reader
from ltx2.request import SegmentRequest
from ltx2.timeline import SegmentShape, first_timing
from tests.ltx2.checkpoint_files import POINTER, shard
from tests.ltx2.outputs import same

LAYERS = ("attn1.to_q", "audio_attn1.to_v", "ff.net.2")
PAIR = {
    "transformer.proj_in.lora_A.weight": torch.ones(1, 16),
    "transformer.proj_in.lora_B.weight": torch.ones(64, 1),
}
REQUEST = SegmentRequest("a boat", 3, 96, 64, first_timing(SegmentShape(9, Fraction(24), 1)))


def factors(
    engine: Engine, seed: int, *, prefix: str = "diffusion_model", rank: int = 2, every: bool = False
) -> dict[str, Tensor]:
    """A random LoRA for some layers of every block, or for every layer and the connectors."""
    random = torch.Generator().manual_seed(seed)
    tensors = {}
    modules = list(engine.pipeline.transformer.named_modules())
    modules += engine.pipeline.connectors.named_modules() if every else []
    for name, layer in modules:
        if isinstance(layer, nn.Linear) and (every or name.endswith(LAYERS)):
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
    wide = {name: tensor.repeat(1, 2) if "lora_A" in name else tensor for name, tensor in tensors.items()}
    save_file(wide, files[1])
    # When / Then
    with pytest.raises(UnsupportedModelError, match=r"for another model; layers .*: 1 of 11 .*\.7\.attn1\.to_q"):
        load(models, Lora(str(files[0])))
    several = r"layers that do not fit this one: 10 of 10 \(\S+to_q \[64, 128\], here \[64, 64\], .* and 7 more\)"
    with pytest.raises(UnsupportedModelError, match=several):
        load(models, Lora(str(files[1])))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "not pairs of factors for LTX-2: no tensors"),
        ({"weight": torch.ones(1)}, "not pairs of factors for LTX-2: weight$"),
        ({f"{name}.diff": torch.ones(1) for name in "abcde"}, r"LTX-2: a\.diff, b\.diff, c\.diff and 2 more$"),
        (PAIR | {"transformer.proj_in.lora_down.weight": torch.ones(1, 16)}, r"pairs of factors .*lora_(A|down)"),
        (PAIR | {"transformer.proj_in.lora_A.bias": torch.ones(1)}, r"pairs of factors .*lora_A\.bias"),
        ({"transformer.proj_in.lokr_w1": torch.ones(2, 2)}, r"is a LoKr, .*: it has .*proj_in\.lokr_w1"),
        ({"diffusion_model.x.alpha": torch.ones(1)}, r"only one factor of a pair for diffusion_model\.x$"),
        ({name: tensor for name, tensor in PAIR.items() if "_B" in name}, r"only one factor .* transformer\.proj_in$"),
        (PAIR | {"transformer.proj_in.alpha": torch.ones(2)}, r"an alpha that is not a number: .*proj_in\.alpha"),
        (
            PAIR | {"transformer.proj_in.lora_B.weight": torch.ones(64, 2)},
            r"that do not fit: .* \[64, 2\] and \[1, 16\]",
        ),
        ({name: tensor.to(torch.int8) for name, tensor in PAIR.items()}, "stores .*lora_A.weight as I8"),
        (PAIR | {"transformer.proj_in.dora_scale": torch.ones(64)}, r"is a DoRA, .*: it has .*proj_in\.dora_scale"),
        (PAIR | {"base_model.model.proj_in.lora_magnitude_vector": torch.ones(64)}, "is a DoRA.*lora_magnitude_vector"),
    ],
)
def test_other_tensors_are_named_without_a_model(tmp_path: Path, tensors: dict[str, Tensor], message: str) -> None:
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(UnsupportedModelError, match=message):
        resolve_lora(str(tmp_path))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            PAIR | {"transformer.proj_in.lora_A.weight": torch.full((1, 16), torch.nan)},
            "proj_in.lora_A.weight that are",
        ),
        (
            PAIR | {"transformer.proj_in.lora_B.weight": torch.full((64, 1), torch.inf)},
            "proj_in.lora_B.weight that are",
        ),
        (
            PAIR | {"transformer.proj_in.alpha": torch.tensor(torch.nan)},
            "numbers in transformer.proj_in.alpha that are",
        ),
        ({name: tensor * 1e30 for name, tensor in PAIR.items()}, "weights of transformer.proj_in that are not finite"),
        (
            PAIR
            | {"text_encoder.proj_in.lora_A.weight": torch.ones(1, 16)}
            | {"text_encoder.proj_in.lora_B.weight": torch.ones(64, 1)},
            "for another model; layers that do not fit this one: 1 of 2 .text_encoder",
        ),
        (
            PAIR | {name.replace("transformer.proj_in", "patchify_proj"): tensor for name, tensor in PAIR.items()},
            "changes the same layer under two names: (transformer.proj_in|patchify_proj)",
        ),
    ],
)
def test_tensors_that_the_model_cannot_use_are_named(
    models: dict[str, Path], tmp_path: Path, tensors: dict[str, Tensor], message: str
) -> None:
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, tmp_path / "a.safetensors")
    with pytest.raises(UnsupportedModelError, match=message):
        load(models, Lora(str(tmp_path)))


def test_an_ic_lora_is_rejected(tmp_path: Path) -> None:
    save_file(PAIR, tmp_path / "a.safetensors", metadata={"reference_downscale_factor": "1"})
    with pytest.raises(UnsupportedModelError, match=r"is an IC-LoRA .* needs a reference video"):
        resolve_lora(str(tmp_path))


@pytest.mark.parametrize(
    ("metadata", "config", "alpha", "scale"),
    [
        ({}, None, torch.tensor([8]), 2.0),
        ({}, None, None, 1.0),
        ({"lora_adapter_metadata": '{"transformer.lora_alpha": 2, "transformer.r": 4}'}, None, None, 0.5),
        ({"lora_adapter_metadata": '{"connectors.lora_alpha": 2}'}, None, None, 1.0),
        ({"lora_adapter_metadata": '{"transformer.lora_alpha": 2}'}, None, torch.tensor([[8]]).bfloat16(), 2.0),
        ({}, {"lora_alpha": 12, "r": 4}, None, 3.0),
        ({}, {"lora_alpha": 12, "use_rslora": True}, None, 6.0),
        ({}, {"lora_alpha": 12, "alpha_pattern": {"proj_in": 20, "j_in": 1}}, None, 5.0),
    ],
)
def test_a_change_is_scaled_by_alpha_and_rank(
    models: dict[str, Path],
    engines: dict[str, Engine],
    tmp_path: Path,
    metadata: dict[str, str],
    config: dict[str, object] | None,
    alpha: Tensor | None,
    scale: float,
) -> None:
    # Given a LoRA of rank 4, with an alpha in the file, in its header, or in peft's own file
    name = "transformer.proj_in"
    tensors = {f"{name}.lora_down.weight": torch.ones(4, 16), f"{name}.lora_up.weight": torch.ones(64, 4)}
    if alpha is not None:
        tensors[f"{name}.alpha"] = alpha
    save_file(tensors, tmp_path / "adapter_model.safetensors", metadata=metadata)
    if config is not None:
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    # When
    changed = weights(load(models, Lora(str(tmp_path), 0.5)))["proj_in.weight"]
    # Then
    torch.testing.assert_close(changed - weights(engines["tiny"])["proj_in.weight"], torch.full((64, 16), 2 * scale))


@pytest.mark.parametrize(
    "config",
    [
        '{"lora_alpha": 1e999}',
        '{"lora_alpha": NaN}',
        '{"lora_alpha": true}',
        '{"lora_alpha": "4"}',
        f'{{"lora_alpha": 1{"0" * 400}}}',
    ],
    ids=lambda config: config[:24],
)
def test_an_alpha_that_is_not_a_usable_number_is_refused(tmp_path: Path, config: str) -> None:
    # Given
    tensors = {"transformer.proj_in.lora_down.weight": torch.ones(4, 16)}
    tensors["transformer.proj_in.lora_up.weight"] = torch.ones(64, 4)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(config)
    # When / Then
    with pytest.raises(UnsupportedModelError, match="has a lora_alpha that is not a usable number"):
        read_lora(tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"alpha_pattern": ["a"]}')
    assert read_lora(tmp_path / "adapter_model.safetensors")


def changing_sets(files: list[Path]) -> list[list[Lora]]:
    first, second = (Lora(str(file)) for file in files)
    return [[first], [second], [], [Lora(first.path, 0.5), second]]


@pytest.mark.usefixtures("fp8_on_cpu")
@pytest.mark.parametrize(("precision", "compiler"), [("fp32", "off"), ("fp32", "eager"), ("fp8", "off")])
def test_changed_loras_give_the_bytes_of_a_fresh_engine(
    models: dict[str, Path],
    engines: dict[str, Engine],
    tmp_path: Path,
    precision: str,
    compiler: str,
) -> None:
    # Given two LoRAs for every layer, and float8 layers even in a small model, whose weights are in shards
    model = shutil.copytree(models["tiny"], tmp_path / "tiny")
    shard(model / "transformer/diffusion_pytorch_model.safetensors")
    files = [tmp_path / "first.safetensors", tmp_path / "second.safetensors"]
    for seed, file in enumerate(files):
        save_file(factors(engines["tiny"], seed, every=True), file)
    settings: dict[str, Any] = {"device": "cpu", "precision": precision, "compiler": compiler}
    engine = Engine.load(str(model), **settings)
    assert any(isinstance(part, Float8Linear) for part in engine.pipeline.transformer.modules()) is (precision == "fp8")
    for loras in changing_sets(files):
        # When
        assert engine.set_loras(loras)
        # Then
        fresh = Engine.load(str(model), loras=loras, **settings)
        for component in ("transformer", "connectors"):
            ours, right = (getattr(one.pipeline, component).state_dict() for one in (engine, fresh))
            assert [name for name in right if not torch.equal(right[name], ours[name])] == []
        if (precision, compiler) == ("fp32", "off") or len(loras) != 1:  # to save time
            assert same(engine.run(REQUEST), fresh.run(REQUEST))


def test_only_touched_tensors_are_read_again(
    models: dict[str, Path], files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given
    engine = load(models, Lora(str(files[0])))
    read, base = [], _Reader.base
    monkeypatch.setattr(_Reader, "base", lambda *args: read.append(args[-1]) or base(*args))  # type: ignore[func-returns-value]
    # When
    assert engine.set_loras([])
    # Then
    touched = {
        name.removeprefix("diffusion_model.").replace("lora_A.", "") for name in load_file(files[0]) if "_A" in name
    }
    assert sorted(read) == sorted(touched)
    # and without LoRAs, nothing is
    assert engine.set_loras([])
    assert len(read) == len(touched)


def test_a_failed_change_is_made_good_by_the_next(
    models: dict[str, Path], engines: dict[str, Engine], files: list[Path]
) -> None:
    # Given a LoRA whose last tensor is not a number
    engine = load(models, Lora(str(files[0])))
    tensors = load_file(files[1])
    tensors[max(tensors)].fill_(torch.nan)
    save_file(tensors, files[1])
    # When
    with pytest.raises(UnsupportedModelError, match="not finite"):
        engine.set_loras([Lora(str(files[1]))])
    assert not all(torch.equal(weights(engine)[name], tensor) for name, tensor in weights(engines["tiny"]).items())
    assert engine.set_loras([])
    # Then
    assert all(torch.equal(weights(engine)[name], tensor) for name, tensor in weights(engines["tiny"]).items())


def test_a_model_whose_files_changed_must_be_loaded_again(
    models: dict[str, Path], files: list[Path], tmp_path: Path
) -> None:
    # Given
    model = shutil.copytree(models["tiny"], tmp_path / "tiny")
    engine = Engine.load(str(model), device="cpu")
    loras = [Lora(str(files[0]))]
    assert engine.set_loras(loras)
    # When
    os.utime(model / "transformer/diffusion_pytorch_model.safetensors", (1, 1))
    # Then
    assert not engine.set_loras([])
    # nor can an engine change that was made from a pipeline
    assert not Engine(engine.pipeline).set_loras([])


def test_prompts_are_encoded_again_when_the_connectors_change(models: dict[str, Path], tmp_path: Path) -> None:
    # Given
    engine = Engine.load(str(models["tiny"]), device="cpu")
    width = engine.pipeline.connectors.video_text_proj_in.weight.shape
    names = [f"text_embedding_projection.video_aggregate_embed.lora_{side}.weight" for side in ("down", "up")]
    save_file(
        dict(zip(names, (torch.ones(1, width[1]), torch.ones(width[0], 1)), strict=True)), tmp_path / "a.safetensors"
    )
    plain = engine.prompts.encode("a boat")
    # When
    assert engine.set_loras([Lora(str(tmp_path))])
    changed = engine.prompts.encode("a boat")
    assert engine.set_loras([])
    # Then the prompt of the plain model is still cached
    assert not torch.equal(plain.video, changed.video)
    assert engine.prompts.encode("a boat") is plain


def test_a_file_a_folder_and_a_hub_id_are_resolved(files: list[Path]) -> None:
    assert resolve_lora(str(files[0])) == files[0]
    files[1].unlink()
    assert resolve_lora(str(files[0].parent)) == files[0]
    assert resolve_lora("owner/name") == HubName("owner/name")
    assert resolve_lora("owner/name@refs/pr/4:loras/a.safetensors") == HubName(
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
