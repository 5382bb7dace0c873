"""Which model a job names, and whether it is there and whole: small ones by name, local folders, hub ids.

Everything but `load_pipeline` runs without torch.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltx2.errors import CheckpointError, EngineMemoryError
from ltx2.variant import CONFIGURED, Variant, variant_of

if TYPE_CHECKING:
    import torch

    from ltx2.pipeline import LongtakePipeline

SMALL_MODELS = ("tiny", "tiny-2.0")
SMALL_RECIPE = 1
"""Raised whenever `ltx2.tiny` would write other weights, so that a cached model is never a stale one."""
COMPONENTS = (
    *("audio_vae", "connectors", "scheduler", "text_encoder"),
    *("tokenizer", "transformer", "vae", "vocoder"),
)

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@(?!.*\.\.)[\w./-]+)?")  # a revision names a file in the hub's cache


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model on the Hugging Face hub; `revision` is a branch, a tag or a commit, None for the default."""

    repository: str
    revision: str | None = None


def default_cache() -> Path:
    """Where small models are kept: `$LONGTAKE_HOME/models`, by default `~/.cache/longtake/models`."""
    return Path(os.environ.get("LONGTAKE_HOME") or "~/.cache/longtake").expanduser() / "models"


def resolve_model(model: str, cache: Path) -> Path | HubModel:
    """The folder or hub id that `model` names: `tiny`, `tiny-2.0`, a folder, or `owner/name[@revision]`.

    A small model is built in `cache` unless it is there. Raises CheckpointError for a folder that is missing
    or incomplete, and for text that is none of the four.
    """
    if model in SMALL_MODELS:
        return _small_model(cache, model)
    folder = os.path.expanduser(model)  # as os.path.isdir, it never raises, whatever the text
    if os.path.isdir(folder):
        check_folder(Path(folder))
        return Path(folder)
    if model.startswith(("/", ".", "~")) or not _HUB_ID.fullmatch(model):
        raise CheckpointError(
            f"no such model folder: {model[:200]} (a model is {' or '.join(SMALL_MODELS)}, "
            "a folder with a model_index.json, or a hub id owner/name[@revision])"
        )
    repository, _, revision = model.partition("@")
    return HubModel(repository, revision or None)


def small_folder(cache: Path, name: str) -> Path:
    """Where the small model `name` lies under `cache`."""
    return cache / f"{name}-r{SMALL_RECIPE}"


def _small_model(cache: Path, name: str) -> Path:
    """Build it in a process of its own: torch in a worker before its fork would keep CUDA from its child."""
    folder = small_folder(cache, name)
    if not folder.is_dir():
        command = [sys.executable, "-m", "ltx2.tiny", str(cache), name]
        environ = os.environ | {"PYTHONPATH": python_path()}
        built = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
        if built.returncode:
            said = built.stderr.strip().splitlines() or [f"its builder ended with status {built.returncode}"]
            raise CheckpointError(said[-1])
    return folder


def python_path() -> str:
    """The PYTHONPATH with which another process imports the packages that this one runs, installed or not."""
    inherited = os.environ.get("PYTHONPATH")
    packages = str(Path(__file__).resolve().parents[1])
    return f"{packages}{os.pathsep}{inherited}" if inherited else packages


def check_folder(folder: Path) -> None:
    """Raise CheckpointError unless `folder` has the layout of an LTX-2 pipeline; weights are not read."""
    index = _read_json(folder / "model_index.json")
    for name in COMPONENTS:
        if not all(index.get(name) or [None]):
            raise CheckpointError(f"{folder}/model_index.json names no {name}: this is no LTX-2 pipeline")
        if not (folder / name).is_dir():
            raise CheckpointError(f"{folder} is incomplete: the folder {name} is missing")
    kind = _read_json(folder / "transformer" / "config.json").get("_class_name")
    if kind != "LTX2VideoTransformer3DModel":
        raise CheckpointError(f"{folder}/transformer is a {kind}, not an LTX2VideoTransformer3DModel")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent} is incomplete: {path.name} is missing") from None
    except (OSError, ValueError) as exc:
        raise CheckpointError(f"cannot read {path}: {exc}") from exc
    if not isinstance(value, dict):
        raise CheckpointError(f"cannot read {path}: it holds a {type(value).__name__}, not an object")
    return value


def load_pipeline(source: Path | HubModel, dtype: torch.dtype) -> LongtakePipeline:
    """The pipeline on the CPU, in `dtype` but for the vocoder, which stays float32: bfloat16 is audible
    there.

    Raises CheckpointError when the files cannot be found or read, EngineMemoryError when they do not fit.
    """
    import torch
    from diffusers.utils import is_accelerate_available
    from safetensors import SafetensorError

    from ltx2.pipeline import LongtakePipeline
    from ltx2.quiet import no_progress_bars

    hub = source if isinstance(source, HubModel) else HubModel(str(source))
    name = hub.repository
    try:
        with no_progress_bars():
            pipeline: LongtakePipeline = LongtakePipeline.from_pretrained(
                name,
                revision=hub.revision,
                dtype={"default": dtype, "vocoder": torch.float32},
                low_cpu_mem_usage=is_accelerate_available(),
                use_safetensors=True,  # else weights that are pickles are taken where there are no others
            )
            return pipeline
    except (torch.OutOfMemoryError, MemoryError) as exc:
        raise EngineMemoryError(f"{name} does not fit into memory: {exc}") from exc
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as exc:
        raise CheckpointError(f"cannot load {name}: {exc}") from exc


def variant_of_pipeline(pipeline: LongtakePipeline) -> Variant:
    """What a loaded pipeline is, with or without its text encoder; raises CheckpointError as `variant_of` does."""
    configs: dict[str, dict[str, Any]] = {}
    for name in CONFIGURED:
        if (component := getattr(pipeline, name)) is not None:
            config = component.config.to_dict() if name == "text_encoder" else component.config
            configs[name] = {**config, "_class_name": type(component).__name__}
    return variant_of(configs)
