"""Which model a job names, and whether it is there and whole: small ones by name, local folders, hub ids; no torch."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltx2.checkpoints.variant import CONFIGURED, Variant, variant_of
from ltx2.checkpoints.weight_files import check_there, check_weights, read_json
from ltx2.errors import CheckpointError

SHIPPED = Path(__file__).with_name("shapes")
"""The small model that has learned something: docs/small-model.md."""
RANDOM_MODELS = ("tiny", "tiny-2.0")
SMALL_MODELS = (SHIPPED.name, *RANDOM_MODELS)
UPSAMPLER_FOLDER = "latent_upsampler"
SMALL_RECIPE = 2
"""Raised whenever `ltx2.checkpoints.random` would write other weights, so that a cached model is never a stale one."""
WEIGHTS = {
    **dict.fromkeys(("audio_vae", "connectors", "transformer", "vae", "vocoder"), "diffusion_pytorch_model"),
    "text_encoder": "model",
}
"""The components that have weights, and what their files are called; other files beside them are not read."""
COMPONENTS = (*WEIGHTS, "scheduler", "tokenizer")

HUB_ID = r"[\w.-]+/[\w.-]+(@(?!.*\.\.)[\w./-]+)?"  # a revision names a file in the hub's cache


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model on the Hugging Face hub; `revision` is a branch, a tag or a commit, None for the default."""

    repository: str
    revision: str | None = None


def default_cache() -> Path:
    """Where random models are kept: `$LONGTAKE_HOME/models`, by default `~/.cache/longtake/models`."""
    return Path(os.environ.get("LONGTAKE_HOME") or "~/.cache/longtake").expanduser() / "models"


def resolve_model(model: str, cache: Path) -> Path | HubModel:
    """The folder or hub id that `model` names: `shapes`, `tiny`, `tiny-2.0`, a folder, or `owner/name[@revision]`.

    A random model is built in `cache` unless it is there. Raises CheckpointError for a folder that is missing
    or incomplete, and for text that is none of these.
    """
    if model in RANDOM_MODELS:
        return _random_model(cache, model)
    folder = (
        str(SHIPPED) if model == SHIPPED.name else os.path.expanduser(model)
    )  # as os.path.isdir, it never raises, whatever the text
    if os.path.isdir(folder):
        check_folder(Path(folder))
        return Path(folder)
    if model.startswith(("/", ".", "~")) or not re.fullmatch(HUB_ID, model):
        raise CheckpointError(
            f"no such model folder: {model[:200]} (a model is {', '.join(SMALL_MODELS)}, "
            "a folder with a model_index.json, or a hub id owner/name[@revision])"
        )
    repository, _, revision = model.partition("@")
    return HubModel(repository, revision or None)


def small_folder(cache: Path, name: str) -> Path:
    """Where the random model `name` lies under `cache`."""
    return cache / f"{name}-r{SMALL_RECIPE}"


def _random_model(cache: Path, name: str) -> Path:
    """Build it in a process of its own: torch in a worker before its fork would keep CUDA from its child."""
    folder = small_folder(cache, name)
    if not folder.is_dir():
        command = [sys.executable, "-m", "ltx2.checkpoints.random", str(cache), name]
        environ = os.environ | {"PYTHONPATH": python_path()}
        built = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
        if built.returncode:
            said = built.stderr.strip().splitlines() or [f"its builder ended with status {built.returncode}"]
            raise CheckpointError(said[-1])
    return folder


def python_path() -> str:
    """The PYTHONPATH with which another process imports the packages that this one runs, installed or not."""
    inherited = os.environ.get("PYTHONPATH")
    packages = str(Path(__file__).resolve().parents[2])
    return f"{packages}{os.pathsep}{inherited}" if inherited else packages


def check_folder(folder: Path) -> Variant:
    """What the checkpoint in `folder` is.

    Raises CheckpointError unless it has the layout of an LTX-2 pipeline that longtake renders, with every file there
    and as long as it should be. Headers and sizes are read, weights are not.
    """
    variant = check_configs(folder)
    for name, stem in WEIGHTS.items():
        check_weights(folder / name, stem)
    check_there(folder / "tokenizer" / "tokenizer_config.json")
    check_there(folder / "tokenizer" / "tokenizer.json")
    return variant


def check_configs(folder: Path) -> Variant:
    """What the configs in `folder` say; raises CheckpointError as `check_folder` does, but for weights."""
    index = read_json(folder / "model_index.json")
    for name in COMPONENTS:
        if not _is_named(index.get(name)):
            raise CheckpointError(f"{folder}/model_index.json names no {name}: this is no LTX-2 pipeline")
        if not (folder / name).is_dir():
            raise CheckpointError(f"{folder} is incomplete: the folder {name} is missing")
    configs = {name: read_json(folder / name / _config_name(name)) for name in CONFIGURED}
    try:
        return variant_of(configs)
    except CheckpointError as exc:
        raise CheckpointError(f"{folder}: {exc}") from exc


def _is_named(entry: Any) -> bool:
    return isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, str) and part for part in entry)


def _config_name(component: str) -> str:
    return "scheduler_config.json" if component == "scheduler" else "config.json"
