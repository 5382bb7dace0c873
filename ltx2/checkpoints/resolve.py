"""Finding and checking the model that a job names: small models, local folders, hub ids. No torch."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltx2.checkpoints.full_weights import FOLDER, SUFFIX, folder_of, has_full, scheduler_config, split_full
from ltx2.checkpoints.quantized import refuse_quantized
from ltx2.checkpoints.recognition import DIFFUSERS_LAYOUT, SUFFIXES, layout_advice, recognize
from ltx2.checkpoints.variant import CONFIGURED, Variant, variant_of
from ltx2.checkpoints.weight_files import check_file, check_weights, read_json
from ltx2.errors import CheckpointError, UnsupportedModelError

SHIPPED = Path(__file__).with_name("shapes")
"""The trained small model, see docs/small-model.md."""
RANDOM_MODELS = ("tiny", "tiny-2.0", "tiny-2.5")
SMALL_MODELS = (SHIPPED.name, *RANDOM_MODELS)
UPSAMPLER_FOLDER = "latent_upsampler"
SMALL_RECIPE = 3
"""Increased whenever `ltx2.checkpoints.random` writes different weights, so that a cached model is never stale."""
WEIGHTS = {
    **dict.fromkeys(("audio_vae", "connectors", "transformer", "vae", "vocoder"), "diffusion_pytorch_model"),
    "text_encoder": "model",
}
"""The components with weights, and the names of their files; other files in their folders are not read."""
COMPONENTS = (*WEIGHTS, "scheduler", "tokenizer")

HUB_ID = r"[\w.-]+/[\w.-]+(@(?!.*\.\.)[\w./-]+)?"  # no "..": a revision becomes a path in the hub's cache


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model on the Hugging Face hub. revision: a branch, a tag or a commit; None for the default branch.

    full: with the weights that are not distilled, see `ltx2.checkpoints.full_weights`.
    """

    repository: str
    revision: str | None = None
    full: bool = False


def default_cache() -> Path:
    """The folder of random models: `$LONGTAKE_HOME/models`, by default `~/.cache/longtake/models`.

    Raises:
        CheckpointError: there is no home folder.
    """
    # os.path, because it never raises, unlike pathlib
    home = os.path.expanduser(os.environ.get("LONGTAKE_HOME") or "~/.cache/longtake")
    if home.startswith("~"):
        raise CheckpointError(f"LONGTAKE_HOME: this user has no home folder, so {home} names no folder; set it to one")
    return Path(home) / "models"


def resolve_model(model: str, cache: Path) -> Path | HubModel:
    """The folder or hub id that `model` names: one of SMALL_MODELS, a folder, or `owner/name[@revision]`.

    Each may end in `#full`, see `ltx2.checkpoints.full_weights`. A random model is built in `cache` if it does not
    exist.

    Raises:
        CheckpointError: a folder is missing or incomplete, or `model` is none of these.
    """
    name, full = split_full(model)
    if name in RANDOM_MODELS:
        built = _random_model(cache, name)
        if full:
            check_folder(built, full=True)
        return built
    folder = str(SHIPPED) if name == SHIPPED.name else os.path.expanduser(name)
    if os.path.isdir(folder):
        check_folder(Path(folder), full=full)
        return Path(folder)
    if os.path.isfile(folder) and folder.endswith(SUFFIXES):
        found = recognize(Path(folder))
        raise UnsupportedModelError(f"{found}: {found.advice}")
    return hub_model(model)


def hub_model(model: str) -> HubModel:
    """The hub id `owner/name[@revision][#full]` that `model` is; CheckpointError if it is none."""
    name, full = split_full(model)
    if name.startswith(("/", ".", "~")) or not re.fullmatch(HUB_ID, name):
        raise CheckpointError(
            f"no such model folder: {model[:200]} (must be {', '.join(SMALL_MODELS)}, "
            "a folder with a model_index.json, or a hub id owner/name[@revision])"
        )
    repository, _, revision = name.partition("@")
    return HubModel(repository, revision or None, full)


def small_folder(cache: Path, name: str) -> Path:
    """The folder of the random model `name` under `cache`."""
    return cache / f"{name}-r{SMALL_RECIPE}"


def _random_model(cache: Path, name: str) -> Path:
    """Build it in a separate process: a worker that loads torch before its fork has no CUDA in the child."""
    folder = small_folder(cache, name)
    if not folder.is_dir():
        command = [sys.executable, "-m", "ltx2.checkpoints.random", str(cache), name]
        environ = os.environ | {"PYTHONPATH": python_path()}
        built = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
        if built.returncode:
            lines = built.stderr.strip().splitlines() or [f"the build process exited with {built.returncode}"]
            raise CheckpointError(lines[-1])
    return folder


def python_path() -> str:
    """A PYTHONPATH with which another process imports the same packages as this one, installed or not."""
    inherited = os.environ.get("PYTHONPATH")
    packages = str(Path(__file__).resolve().parents[2])
    return f"{packages}{os.pathsep}{inherited}" if inherited else packages


def check_folder(folder: Path, *, full: bool = False) -> Variant:
    """Check the checkpoint in `folder` and return its variant. Headers and sizes are read, weights are not.

    full: with the weights that are not distilled.

    Raises:
        CheckpointError: not an LTX-2 pipeline that longtake supports, or a file is missing or has the wrong size.
    """
    variant = check_configs(folder, full=full)
    for name, stem in WEIGHTS.items():
        check_weights(folder / folder_of(name, full=full), stem)
    check_file(folder / "tokenizer" / "tokenizer_config.json")
    check_file(folder / "tokenizer" / "tokenizer.json")
    return variant


def check_configs(folder: Path, *, full: bool = False) -> Variant:
    """Check the configs in `folder`, but not its weights, and return its variant. full: as in `check_folder`.

    Raises:
        CheckpointError: not an LTX-2 pipeline that longtake supports, or a config or folder is missing.
    """
    check_is_pipeline(folder)
    index = read_json(folder / "model_index.json")
    for name in COMPONENTS:
        if not _is_entry(index.get(name)):
            raise CheckpointError(f"{folder}/model_index.json has no {name}: not an LTX-2 pipeline")
        if not (folder / name).is_dir():
            raise CheckpointError(f"{folder} is incomplete: the folder {name} is missing")
    if full and not has_full(folder):
        raise UnsupportedModelError(
            f"{folder} has no {FOLDER}, which {SUFFIX} names: remove {SUFFIX}, or use a model that has it, such as "
            f"{DIFFUSERS_LAYOUT['2.5']}"
        )
    configs = {name: read_json(folder / folder_of(name, full=full) / _config_name(name)) for name in CONFIGURED}
    configs["scheduler"] = scheduler_config(configs["scheduler"], full=full)
    refuse_quantized(folder, configs)
    try:
        return variant_of(configs)
    except CheckpointError as exc:
        raise CheckpointError(f"{folder}: {exc}") from exc


def check_is_pipeline(folder: Path) -> None:
    """Refuse a folder without a model_index.json, and say what it is if it has something else.

    Raises:
        UnsupportedModelError: a file of weights, or one component of a model.
        CheckpointError: a folder without either.
    """
    if (folder / "model_index.json").is_file():
        return
    if (folder / "config.json").is_file():
        config = read_json(folder / "config.json")
        kind = config.get("_class_name") or config.get("model_type") or "something unknown"
        raise UnsupportedModelError(
            f"{folder} is one component, {str(kind)[:100]}, not a whole model: {layout_advice()}"
        )
    files = sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES)
    if not files:
        raise CheckpointError(f"{folder} is incomplete: model_index.json is missing")
    more = f", and {len(files) - 1} more files" if len(files) > 1 else ""
    first = recognize(files[0])
    raise UnsupportedModelError(f"{folder} has no model_index.json; {first}{more}: {layout_advice(first.version)}")


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, str) and part for part in entry)


def _config_name(component: str) -> str:
    return "scheduler_config.json" if component == "scheduler" else "config.json"
