"""Finding and checking the model that a job names: small models, folders, files, hub ids. No torch."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltx2.checkpoints.files.model import describe
from ltx2.checkpoints.files.recognition import DIFFUSERS_LAYOUT, layout_advice, recognize
from ltx2.checkpoints.files.sets import local_candidates
from ltx2.checkpoints.files.tokenizers import check_tokenizer
from ltx2.checkpoints.formats.weight_files import SUFFIXES, check_weights, has_suffix, read_json
from ltx2.checkpoints.full_weights import FOLDER, SUFFIX, folder_of, has_full, scheduler_for, split_full
from ltx2.checkpoints.hub_names import parse_hub_name
from ltx2.checkpoints.quantized import refuse_quantized
from ltx2.checkpoints.variant import CONFIGURED, Variant, check_text_width, text_width, variant_of
from ltx2.errors import CheckpointError, UnsupportedModelError
from ltx2.processes import python_path

SHIPPED = Path(__file__).with_name("shapes")
"""The trained small model, see docs/small-model.md."""
RANDOM_MODELS = ("tiny", "tiny-2.0", "tiny-2.5")
SMALL_MODELS = (SHIPPED.name, *RANDOM_MODELS)
UPSAMPLER_FOLDER = "latent_upsampler"
SMALL_RECIPE = 4
"""Increased whenever `ltx2.checkpoints.random` writes different weights, so that a cached model is never stale."""
WEIGHTS = {
    **dict.fromkeys(("audio_vae", "connectors", "transformer", "vae", "vocoder"), "diffusion_pytorch_model"),
    "text_encoder": "model",
}
"""The components with weights, and the names of their files; other files in their folders are not read."""
COMPONENTS = (*WEIGHTS, "scheduler", "tokenizer")
_PICKLED = (".ckpt", ".pt", ".pth", ".bin")


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model on the Hugging Face hub. revision: a branch, a tag or a commit; None for the default branch.

    full: with the weights that are not distilled, see `ltx2.checkpoints.full_weights`.
    file: its file in the repository; None for a repository in the layout of diffusers.
    """

    repository: str
    revision: str | None = None
    full: bool = False
    file: str | None = None


@dataclass(frozen=True, slots=True)
class FileModel:
    """A model that is not in the layout of diffusers. named: a file, a folder of files, or a file on the hub.

    text_encoder: a file, a folder, or on the hub a file or repository; None if it is among the other files.
    """

    named: Path | HubModel
    text_encoder: Path | HubModel | None = None


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


def resolve_model(model: str, cache: Path, text_encoder: str | None = None) -> Path | HubModel | FileModel:
    """What `model` names: one of SMALL_MODELS, a folder, a file, `owner/name[@revision]` or that with `:file`.

    Each but files may end in `#full`, see `ltx2.checkpoints.full_weights`. A random model is built in `cache` if it
    does not exist. text_encoder: a folder, a file or a hub id, for a model in files.

    Raises:
        CheckpointError: a folder or file is missing or incomplete, or `model` is none of these.
        UnsupportedModelError: what it names is not a model that longtake can use.
    """
    name, full = split_full(model)
    if name in RANDOM_MODELS:
        refuse_encoder(model, text_encoder)
        built = _random_model(cache, name)
        if full:
            check_folder(built, full=True)
        return built
    named = local_name(name)
    if is_in_files(named):
        _refuse_full(model, full=full)
        encoder = None if text_encoder is None else resolve_encoder(text_encoder)
        local = encoder if isinstance(encoder, Path) else None
        describe(Path(named), local, encoder_later=isinstance(encoder, HubModel))
        return FileModel(Path(named), encoder)
    if os.path.isdir(named):
        check_is_pipeline(Path(named))
        refuse_encoder(model, text_encoder)
        check_folder(Path(named), full=full)
        return Path(named)
    if os.path.isfile(named):
        refuse_other_files(Path(named))
    found = hub_model(model)
    if found.file is not None:
        _refuse_full(model, full=full)
        return FileModel(found, None if text_encoder is None else resolve_encoder(text_encoder))
    refuse_encoder(model, text_encoder)
    return found


def local_name(name: str) -> str:
    """The path that the model `name` has if it is on this machine, and is not a random one."""
    return str(SHIPPED) if name == SHIPPED.name else os.path.expanduser(name)


def is_in_files(named: str) -> bool:
    """Whether the path `named` is a file of weights, or a folder with files of weights and not of one component."""
    path = Path(named)
    if os.path.isfile(named):
        return has_suffix(path)
    if not os.path.isdir(named) or (path / "model_index.json").is_file() or (path / "config.json").is_file():
        return False
    return any(one.has_transformer for one in local_candidates(path))


def resolve_encoder(text_encoder: str) -> Path | HubModel:
    """The folder or file `text_encoder`, or the hub id `owner/name[@revision][:file]` that it is.

    Raises:
        CheckpointError: it is none of these.
    """
    local = os.path.expanduser(text_encoder)
    if os.path.isdir(local) or (os.path.isfile(local) and has_suffix(local)):
        return Path(local)
    try:
        return hub_model(text_encoder)
    except CheckpointError:
        raise CheckpointError(
            f"no such text encoder: {text_encoder[:200]} (must be a folder, a .safetensors or .gguf file, or "
            "a hub id owner/name[@revision][:file])"
        ) from None


def refuse_encoder(model: str, text_encoder: str | None) -> None:
    """Refuse a text encoder that is named for a `model` in the layout of diffusers."""
    if text_encoder is not None:
        raise UnsupportedModelError(
            f"{model[:200]} is in the layout of diffusers and has its text encoder: remove text_encoder, which is for "
            "models in files"
        )


def _refuse_full(model: str, *, full: bool) -> None:
    if full:
        raise UnsupportedModelError(
            f"{model[:200]}: {SUFFIX} is for the layout of diffusers; name the file with the weights that are not "
            "distilled"
        )


def refuse_other_files(file: Path) -> None:
    """Refuse a file that is neither .safetensors nor .gguf."""
    if not has_suffix(file):
        raise _other_file(file)


def _other_file(file: Path) -> UnsupportedModelError:
    pickled = ": weights in it are pickled, and loading them could run any code" if has_suffix(file, _PICKLED) else ""
    return UnsupportedModelError(f"{file} is neither a {' nor a '.join(SUFFIXES)} file{pickled}")


def hub_model(model: str) -> HubModel:
    """The hub id `owner/name[@revision][:file][#full]` that `model` is; CheckpointError if it is none."""
    name, full = split_full(model)
    found = parse_hub_name(name)
    if found is None or not has_suffix(found.file or SUFFIXES[0]):
        what = "file" if found is None and has_suffix(name) and ":" not in name else "model folder"
        raise CheckpointError(
            f"no such {what}: {model[:200]} (must be {', '.join(SMALL_MODELS)}, "
            "a folder with a model_index.json, a .safetensors or .gguf file, or a hub id owner/name[@revision][:file])"
        )
    return HubModel(found.repository, found.revision, full, found.file)


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


def check_folder(folder: Path, *, full: bool = False) -> Variant:
    """Check the checkpoint in `folder` and return its variant. Headers and sizes are read, weights are not.

    full: with the weights that are not distilled.

    Raises:
        CheckpointError: not an LTX-2 pipeline that longtake supports, or a file is missing or has the wrong size.
    """
    variant = check_configs(folder, full=full)
    for name, stem in WEIGHTS.items():
        check_weights(folder / folder_of(name, full=full), stem)
    check_tokenizer(folder / "tokenizer")
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
    configs["scheduler"] = scheduler_for(configs["scheduler"], full=full)
    refuse_quantized(folder, configs)
    try:
        variant = variant_of(configs)
    except CheckpointError as exc:
        raise CheckpointError(f"{folder}: {exc}") from exc
    check_text_width(folder / "text_encoder", configs["text_encoder"], text_width(configs["connectors"]))
    return variant


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
    files = sorted(file for file in folder.iterdir() if has_suffix(file))
    if not files:
        raise _without_files(folder)
    of = f", the first of {len(files)} files" if len(files) > 1 else ""
    first = recognize(files[0])
    raise UnsupportedModelError(f"{folder} has no model_index.json; {first}{of}: {layout_advice(first.version)}")


def _without_files(folder: Path) -> CheckpointError:
    """What is wrong with a `folder` that has neither a model_index.json nor a file of weights."""
    pickled = sorted(file for file in folder.iterdir() if has_suffix(file, _PICKLED))
    if pickled:
        return _other_file(pickled[0])
    if inner := sorted([*folder.glob("*/model_index.json"), *folder.glob("*/*/model_index.json")]):
        return CheckpointError(f"{folder} has its model_index.json in {inner[0].parent}: name that folder")
    if revisions := sorted(folder.glob("snapshots/*")):
        return CheckpointError(f"{folder} has its files in {revisions[0]}: name that folder")
    if any((folder / name).is_dir() for name in COMPONENTS):
        return CheckpointError(f"{folder} is incomplete: model_index.json is missing")
    return CheckpointError(
        f"{folder} is no model folder: it has no model_index.json (the layout of diffusers), and no "
        f"{' or '.join(SUFFIXES)} file"
    )


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, str) and part for part in entry)


def _config_name(component: str) -> str:
    return "scheduler_config.json" if component == "scheduler" else "config.json"
