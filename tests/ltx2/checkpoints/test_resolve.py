from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Gemma3ForConditionalGeneration, Gemma4UnifiedForConditionalGeneration

from ltx2.checkpoints.reports.check import check_model
from ltx2.checkpoints.resolve import COMPONENTS, WEIGHTS, HubModel, default_cache, resolve_model
from ltx2.engine import Engine
from ltx2.errors import CheckpointError, UnsupportedModelError
from tests.ltx2.checkpoint_files import POINTER, edit, shard


def test_a_small_model_is_built_in_the_cache(models: dict[str, Path]) -> None:
    for name, built in models.items():
        assert resolve_model(name, built.parent) == built


def test_a_folder_resolves_to_itself(folder: Path, tmp_path: Path) -> None:
    assert resolve_model(str(folder), tmp_path) == folder


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("Lightricks/LTX-2", HubModel("Lightricks/LTX-2")),
        ("some-one/ltx_2.3@refs/pr/4", HubModel("some-one/ltx_2.3", "refs/pr/4")),
    ],
)
def test_a_hub_id_may_have_a_revision(tmp_path: Path, model: str, expected: HubModel) -> None:
    assert resolve_model(model, tmp_path) == expected


@pytest.mark.parametrize(
    "model",
    [
        "/no/such",
        "./model",
        "~/no/such",
        "~nobody",
        "../x",
        "a/b/c",
        "missing",
        "",
        "a b/c",
        "x\0",
        "owner/name@../../x",
        "x" * 9999,
    ],
)
def test_a_name_that_is_not_a_model_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(CheckpointError, match="no such model folder: "):
        resolve_model(model, tmp_path)


def test_the_cache_is_under_longtake_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGTAKE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "models"
    monkeypatch.delenv("LONGTAKE_HOME")
    assert default_cache() == Path.home() / ".cache/longtake/models"


def test_an_empty_folder_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is no model folder: it has no model_index\.json"):
        resolve_model(str(tmp_path), tmp_path)


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_missing_component_is_named(folder: Path, name: str) -> None:
    shutil.rmtree(folder / name)
    with pytest.raises(CheckpointError, match=f"the folder {name} is missing"):
        resolve_model(str(folder), folder)


@pytest.mark.parametrize("entry", [None, [None, None]])
def test_an_index_without_a_vocoder_is_rejected(folder: Path, entry: object) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"vocoder": entry}))
    with pytest.raises(CheckpointError, match="has no vocoder"):
        resolve_model(str(folder), folder)


def test_another_transformer_class_is_rejected(folder: Path) -> None:
    (folder / "transformer/config.json").write_text('{"_class_name": "FluxTransformer2DModel"}')
    with pytest.raises(CheckpointError, match="has a FluxTransformer2DModel, not LTX2VideoTransformer3DModel"):
        resolve_model(str(folder), folder)


@pytest.mark.parametrize("text", [b"{", b"\xff\xfe", b"[]"])
def test_an_unreadable_index_is_rejected(folder: Path, text: bytes) -> None:
    (folder / "model_index.json").write_bytes(text)
    with pytest.raises(CheckpointError, match=r"cannot read .*model_index\.json"):
        resolve_model(str(folder), folder)


@pytest.mark.parametrize(("component", "stem"), WEIGHTS.items())
def test_missing_weights_are_named(folder: Path, component: str, stem: str) -> None:
    (folder / component / f"{stem}.safetensors").unlink()
    with pytest.raises(CheckpointError, match=rf"{component} is incomplete: {stem}\.safetensors is missing"):
        resolve_model(str(folder), folder)


@pytest.mark.parametrize(
    "name", ["transformer/config.json", "scheduler/scheduler_config.json", "tokenizer/tokenizer.json"]
)
@pytest.mark.parametrize(
    ("content", "message"), [(None, "is missing"), (b"", "is empty"), (POINTER, "is a Git LFS pointer.*git lfs pull")]
)
def test_a_missing_empty_or_pointer_file_is_named(folder: Path, name: str, content: bytes | None, message: str) -> None:
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as error:
        resolve_model(str(folder), folder)
    assert Path(name).name in str(error.value)


def test_an_unsupported_config_is_rejected_with_its_folder(folder: Path) -> None:
    edit(folder / "vocoder/config.json", output_sampling_rate=44_100)
    with pytest.raises(CheckpointError, match=rf"{folder}: vocoder/: output_sampling_rate is 44100.*only 48000"):
        resolve_model(str(folder), folder)


@pytest.mark.parametrize(
    ("component", "quantization", "library"),
    [
        ("transformer", {"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ("text_encoder", {"load_in_8bit": True}, "bitsandbytes"),
        ("transformer", {"quant_method": "sdnq", "weights_dtype": "uint4"}, "SDNQ"),
        ("connectors", {"quant_method": "torchao"}, "torchao"),
        ("vae", {"quant_method": "quanto"}, "Quanto"),
        ("audio_vae", {"quant_method": "of-next-year"}, "of-next-year"),
        ("vocoder", ["?"], "an unknown library"),
        ("vocoder", {"weights": 8}, "an unknown library"),
    ],
)
def test_a_quantized_component_is_rejected_with_its_library(
    folder: Path, component: str, quantization: object, library: str
) -> None:
    edit(folder / component / "config.json", quantization_config=quantization)
    with pytest.raises(
        UnsupportedModelError, match=rf"is quantized: {component}/ with {library} \(quantization_config"
    ):
        resolve_model(str(folder), folder)
    edit(folder / component / "config.json", quantization_config=None)
    assert resolve_model(str(folder), folder) == folder


@pytest.mark.parametrize(
    ("name", "pickled"), [("vae/diffusion_pytorch_model", None), ("text_encoder/model", "text_encoder/pytorch_model")]
)
def test_pickled_weights_are_never_opened(folder: Path, name: str, pickled: str | None) -> None:
    # Given pickled weights in place of a safetensors file
    weights = folder / f"{name}.safetensors"
    torch.save(load_file(weights), folder / f"{pickled or name}.bin")
    weights.unlink()
    # When / Then
    with pytest.raises(CheckpointError, match=r"has pickled weights, .*\.bin; loading them could run any code"):
        Engine.load(str(folder), device="cpu")


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("transformer/diffusion_pytorch_model", lambda t: t.pop("proj_in.bias"), r"lack proj_in\.bias"),
        ("vocoder/diffusion_pytorch_model", lambda t: t.pop("vocoder.conv_in.weight"), r"lack vocoder\.conv_in\.wei"),
        ("vae/diffusion_pytorch_model", lambda t: t.pop("latents_mean"), "lack latents_mean"),
        ("text_encoder/model", lambda t: t.pop("language_model.model.norm.weight"), r"lack .*norm\.weight"),
        ("transformer/diffusion_pytorch_model", lambda t: t.update(x=torch.ones(1)), "its files have x, which"),
        (
            "transformer/diffusion_pytorch_model",
            lambda t: t.update({"proj_in.bias": torch.ones(3)}),
            r"(?s)proj_in\.bias",
        ),
    ],
)
def test_weights_must_match_their_config(
    folder: Path, name: str, change: Callable[[Any], object], message: str
) -> None:
    """diffusers and transformers only warn, and fill missing tensors with random numbers."""
    rewrite(folder / f"{name}.safetensors", change)
    with pytest.raises(CheckpointError, match=message):
        Engine.load(str(folder), device="cpu")


WHOLE = {"tiny": Gemma3ForConditionalGeneration, "tiny-2.5": Gemma4UnifiedForConditionalGeneration}


@pytest.mark.parametrize(
    ("name", "prefix"), [("tiny", "language_model.model."), ("tiny", "model.language_model."), ("tiny-2.5", None)]
)
def test_gemma_is_loaded_without_towers_and_without_its_head(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, prefix: str | None
) -> None:
    # Given the hidden states of the whole model, for a padded prompt
    folder = shutil.copytree(models[name], tmp_path / "model")
    whole = WHOLE[name].from_pretrained(folder / "text_encoder")
    tokens = {
        "input_ids": torch.tensor([[0, 0, 0, 2, 270, 280, 300]]),
        "attention_mask": torch.tensor([[0, 0, 0, 1, 1, 1, 1]]),
    }
    with torch.no_grad():
        expected = whole(**tokens, output_hidden_states=True).hidden_states
    weights = folder / "text_encoder/model.safetensors"
    if prefix:  # the names of an older or a newer library
        rewrite(weights, lambda t: [t.update({_renamed(key, prefix): t.pop(key)}) for key in list(t)])
    capsys.readouterr()
    for cut in (False, True):  # with all weights, and then without those that are not needed
        if cut:
            rewrite(weights, lambda t: [t.pop(key) for key in list(t) if "language_model" not in key])
        # When
        engine = Engine.load(str(folder), device="cpu")
        # Then they are the same, nothing else is in memory, and nothing is reported
        encoder = engine.pipeline.text_encoder
        with torch.no_grad():
            found = encoder(**tokens, output_hidden_states=True).hidden_states
        assert len(found) == len(expected) > 2
        assert all(torch.equal(one, right) for one, right in zip(found, expected, strict=True))
        assert all(key.startswith("language_model.") for key, _ in encoder.named_parameters())
        assert capsys.readouterr().err == ""
    # And one that is needed must be there
    rewrite(weights, lambda t: t.pop(next(key for key in t if key.endswith("model.norm.weight"))))
    with pytest.raises(CheckpointError, match=r"text_encoder: its files lack .*norm\.weight"):
        Engine.load(str(folder), device="cpu")


def _renamed(key: str, prefix: str) -> str:
    return re.sub(r"^(model\.)?language_model\.(model\.)?", prefix, key)


def test_a_text_encoder_whose_config_does_not_fit_its_class_is_rejected(
    models: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(models["tiny-2.5"], tmp_path / "model-2.5")
    edit(folder / "text_encoder/config.json", text_config={"hidden_size": "wide"})
    with pytest.raises(CheckpointError, match=r"cannot load .*hidden_size"):
        Engine.load(str(folder), device="cpu")


def test_a_text_encoder_of_another_size_is_rejected_by_its_config(folder: Path) -> None:
    # Given the config of Gemma 3 4B, whose weights need not be there
    edit(folder / "text_encoder/config.json", text_config={"hidden_size": 2560, "num_hidden_layers": 34})
    (folder / "text_encoder/model.safetensors").unlink()
    # When / Then
    said = f"text_encoder: {folder}/text_encoder has 34 layers of width 2560, so 89,600 numbers for each token"
    with pytest.raises(UnsupportedModelError, match=said):
        resolve_model(str(folder), folder)
    assert said in str(check_model(str(folder), folder).problem)


def test_the_vision_tower_of_the_text_encoder_may_be_missing(folder: Path) -> None:
    weights = folder / "text_encoder/model.safetensors"
    rewrite(weights, lambda t: [t.pop(name) for name in list(t) if "vision_tower" in name])
    Engine.load(str(folder), device="cpu")


def test_sharded_weights_are_loaded_and_unused_files_are_ignored(folder: Path, engines: dict[str, Engine]) -> None:
    # Given a sharded transformer, and an unused file of another layout
    whole = folder / "transformer/diffusion_pytorch_model.safetensors"
    shard(whole)
    (folder / "text_encoder/diffusion_pytorch_model-00001-of-00011.safetensors").write_bytes(b"")
    # When
    engine = Engine.load(str(folder), device="cpu")
    # Then
    loaded, expected = (each.pipeline.transformer.state_dict() for each in (engine, engines["tiny"]))
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())
