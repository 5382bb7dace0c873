from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ltx2 import checkpoint
from ltx2.checkpoint import HubModel, default_cache, resolve_model
from ltx2.engine import Engine
from ltx2.errors import CheckpointError


@pytest.fixture
def folder(tmp_path: Path, models: dict[str, Path]) -> Path:
    return shutil.copytree(models["tiny"], tmp_path / "model")


def test_a_small_model_is_built_in_the_cache(models: dict[str, Path]) -> None:
    for name, built in models.items():
        assert resolve_model(name, built.parent) == built


def test_a_folder_is_itself(folder: Path, tmp_path: Path) -> None:
    assert resolve_model(str(folder), tmp_path) == folder


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("Lightricks/LTX-2", HubModel("Lightricks/LTX-2")),
        ("some-one/ltx_2.3@refs/pr/4", HubModel("some-one/ltx_2.3", "refs/pr/4")),
    ],
)
def test_a_hub_id_may_carry_a_revision(tmp_path: Path, model: str, expected: HubModel) -> None:
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
def test_what_looks_like_a_folder_must_be_one(tmp_path: Path, model: str) -> None:
    with pytest.raises(CheckpointError, match="no such model folder: "):
        resolve_model(model, tmp_path)


def test_the_cache_is_under_longtake_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGTAKE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "models"
    monkeypatch.delenv("LONGTAKE_HOME")
    assert default_cache() == Path.home() / ".cache/longtake/models"


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"incomplete: model_index\.json is missing"):
        resolve_model(str(tmp_path), tmp_path)


@pytest.mark.parametrize("name", checkpoint.COMPONENTS)
def test_a_missing_component_is_named(folder: Path, name: str) -> None:
    shutil.rmtree(folder / name)
    with pytest.raises(CheckpointError, match=f"the folder {name} is missing"):
        resolve_model(str(folder), folder)


@pytest.mark.parametrize("entry", [None, [None, None]])
def test_an_index_without_a_vocoder_is_another_pipeline(folder: Path, entry: object) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"vocoder": entry}))
    with pytest.raises(CheckpointError, match="names no vocoder"):
        resolve_model(str(folder), folder)


def test_another_transformer_is_refused_by_its_name(folder: Path) -> None:
    (folder / "transformer/config.json").write_text('{"_class_name": "FluxTransformer2DModel"}')
    with pytest.raises(CheckpointError, match="is a FluxTransformer2DModel, not"):
        resolve_model(str(folder), folder)


@pytest.mark.parametrize("text", [b"{", b"\xff\xfe", b"[]"])
def test_an_unreadable_index_is_refused(folder: Path, text: bytes) -> None:
    (folder / "model_index.json").write_bytes(text)
    with pytest.raises(CheckpointError, match=r"cannot read .*model_index\.json"):
        resolve_model(str(folder), folder)


def test_missing_weights_are_refused(folder: Path) -> None:
    (folder / "vae/diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"cannot load .*diffusion_pytorch_model"):
        Engine.load(str(folder), device="cpu")


@pytest.mark.parametrize("name", ["vae/diffusion_pytorch_model", "text_encoder/model"])
def test_truncated_weights_are_refused(folder: Path, name: str) -> None:
    weights = folder / f"{name}.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="cannot load"):
        Engine.load(str(folder), device="cpu")


@pytest.mark.parametrize(
    ("name", "pickled"), [("vae/diffusion_pytorch_model", None), ("text_encoder/model", "text_encoder/pytorch_model")]
)
def test_weights_that_are_a_pickle_are_never_opened(folder: Path, name: str, pickled: str | None) -> None:
    # Given weights in a pickle, in place of those in safetensors
    weights = folder / f"{name}.safetensors"
    torch.save(load_file(weights), folder / f"{pickled or name}.bin")
    weights.unlink()
    # When / Then
    with pytest.raises(CheckpointError, match="cannot load"):
        Engine.load(str(folder), device="cpu")


def test_resolving_needs_no_torch() -> None:
    script = "import sys; from ltx2.checkpoint import resolve_model; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
