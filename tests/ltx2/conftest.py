"""The small checkpoints, built once per session, and engines that load them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLLTX2Video

from ltx2.acceleration import fp8, stored_weights
from ltx2.checkpoints import random as tiny
from ltx2.engine import Engine

pytest.register_assert_rewrite("tests.ltx2.model.weights.encoder_checks")


@pytest.fixture(scope="session")
def models(small_models: Path) -> dict[str, Path]:
    """Folders of the small checkpoints by name."""
    return {name: tiny.ensure(small_models, name) for name in tiny.VERSIONS}


@pytest.fixture
def fp8_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have float8 layers on a CPU, where torch has them, too, and in models as small as those of tests."""
    monkeypatch.setattr(fp8, "SMALLEST_SIZE", 16)
    monkeypatch.setattr(stored_weights, "SMALLEST_SIZE", 16)
    monkeypatch.setattr("ltx2.engine.precision_of", lambda name, _: {"auto": "fp32"}.get(name, name))


@pytest.fixture
def folder(models: dict[str, Path], tmp_path: Path) -> Path:
    """A 2.3 that a test may change."""
    return shutil.copytree(models["tiny"], tmp_path / "model")


@pytest.fixture(scope="session")
def noisy_model(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny` with a VAE whose decoder is given a timestep."""
    folder = shutil.copytree(models["tiny"], tmp_path_factory.mktemp("noisy") / "model")
    old = AutoencoderKLLTX2Video.from_pretrained(folder / "vae")
    torch.manual_seed(7)
    vae = AutoencoderKLLTX2Video(**{**old.config, "timestep_conditioning": True})
    vae.load_state_dict(old.state_dict(), strict=False)
    shutil.rmtree(folder / "vae")
    vae.save_pretrained(folder / "vae")
    return folder


@pytest.fixture(scope="session")
def engines(models: dict[str, Path]) -> dict[str, Engine]:
    """CPU engines by model name; tests share them, as they keep only prompts between segments."""
    return {name: Engine.load(str(folder), device="cpu") for name, folder in models.items()}


@pytest.fixture(params=list(tiny.VERSIONS))
def engine(request: pytest.FixtureRequest, engines: dict[str, Engine]) -> Engine:
    """An engine of each version: 2.3, 2.0 and 2.5."""
    return engines[request.param]


@pytest.fixture(scope="session")
def full_models(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The small checkpoints by name, with the scheduler of models that are not distilled."""
    shifting = {"use_dynamic_shifting": True, "shift_terminal": 0.1, "base_shift": 0.95, "max_shift": 2.05}
    shifting |= {"base_image_seq_len": 1024, "max_image_seq_len": 4096}
    folder = tmp_path_factory.mktemp("full")
    for name, model in models.items():
        shutil.copytree(model, folder / name)
        config = folder / name / "scheduler" / "scheduler_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | shifting))
    return {name: folder / name for name in models}


@pytest.fixture(scope="session")
def full_engines(full_models: dict[str, Path]) -> dict[str, Engine]:
    """CPU engines of models that are not distilled, by model name."""
    return {name: Engine.load(str(folder), device="cpu") for name, folder in full_models.items()}


@pytest.fixture(params=["tiny", "tiny-2.0", "tiny-2.5"])
def full(request: pytest.FixtureRequest, full_engines: dict[str, Engine]) -> Engine:
    """An engine of each version, with a model that is not distilled."""
    return full_engines[request.param]
