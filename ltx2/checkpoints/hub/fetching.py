"""Fetching models and LoRAs from the Hugging Face hub into its cache (`HF_HOME`); waits for a hub that is out."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from huggingface_hub import constants, hf_hub_download, snapshot_download

from ltx2.checkpoints.files.recognition import layout_advice
from ltx2.checkpoints.formats.weight_files import has_suffix, shards_of, summary
from ltx2.checkpoints.full_weights import FOLDER, SUFFIX, folder_of, has_full, split_full
from ltx2.checkpoints.hub.headers import file_names
from ltx2.checkpoints.hub.outages import fetch_errors, waiting_for_hub
from ltx2.checkpoints.hub_names import HubName
from ltx2.checkpoints.loras.lora import single_weights_file
from ltx2.checkpoints.resolve import WEIGHTS, FileModel, HubModel, check_configs, resolve_model
from ltx2.checkpoints.upsampler_files import names_in_repository, upsampler_config, upsampler_in
from ltx2.errors import CheckpointError, UnsupportedModelError

CONFIGS = ["model_index.json", "scheduler/*.json", "tokenizer/*", *(f"{name}/config.json" for name in WEIGHTS)]
INDEXES = [f"{name}/{stem}.safetensors.index.json" for name, stem in WEIGHTS.items()]


@waiting_for_hub
def fetch_model(model: HubModel) -> Path:
    """Fetch the files of `model` that are read, and return their folder. Weights are fetched after the configs pass.

    Where weights are sharded, those that the index names are fetched: a repository may hold the same weights twice.
    A model that is whole in the cache is used also while the hub is out.

    Raises:
        CheckpointError: the model cannot be fetched, or longtake does not support its configs. UnsupportedModelError:
            it is not in the layout of diffusers. HubUnreachableError: the hub was out for a minute.
    """
    few = configs_of(full=model.full)
    with fetch_errors(model.repository):
        folder = in_cache(snapshot_download(model.repository, revision=model.revision, allow_patterns=few))
    if not (folder / "model_index.json").is_file():
        raise bare_repository(model, file_names(model.repository, model.revision))
    check_configs(folder, full=model.full)
    weights = [file for name in WEIGHTS for file in weight_names(folder, name, full=model.full)]
    absent = [file for file in weights if not (folder / file).is_file()]
    if absent and (problem := missing_weights(model, absent, file_names(model.repository, model.revision))) is not None:
        raise CheckpointError(problem)
    with fetch_errors(model.repository):
        return in_cache(snapshot_download(model.repository, revision=model.revision, allow_patterns=few + weights))


def configs_of(*, full: bool) -> list[str]:
    """Patterns of the files that are fetched first. full: for the weights that are not distilled, too."""
    index = f"{FOLDER}/{WEIGHTS['transformer']}.safetensors.index.json"
    return CONFIGS + INDEXES + ([f"{FOLDER}/config.json", index] if full else [])


def full_name(model: str, cache: Path) -> str:
    """`model`, with `#full` if it has weights that are not distilled next to distilled ones; see `resolve_model`.

    Raises:
        CheckpointError: it does not exist, or its repository cannot be asked.
    """
    source = resolve_model(model, cache)
    if isinstance(source, FileModel):
        return model  # the file that is named has the weights
    if isinstance(source, HubModel):
        with fetch_errors(source.repository):
            config = [f"{FOLDER}/config.json"]
            source = in_cache(snapshot_download(source.repository, revision=source.revision, allow_patterns=config))
    return model + SUFFIX if has_full(source) and not split_full(model)[1] else model


def weight_names(folder: Path, name: str, *, full: bool = False) -> list[str]:
    """The weight files of the component `name`, as a repository has them whose configs and indexes are in `folder`."""
    stem, place = WEIGHTS[name], folder_of(name, full=full)
    index = folder / place / f"{stem}.safetensors.index.json"
    files = list(shards_of(index)) if index.is_file() else [f"{stem}.safetensors"]
    return [f"{place}/{file}" for file in files]


def missing_weights(model: HubModel, files: Iterable[str], names: Collection[str]) -> str | None:
    """Why a repository that has the files `names` lacks one of the weight `files` that are read; None if it has all."""
    for file in files:
        if file not in names:
            stem = file.removesuffix(".safetensors")
            variant = next((name for name in names if name.startswith(f"{stem}.") and has_suffix(name)), None)
            only = f", only a variant, {variant}, which longtake does not read" if variant else ""
            return f"{model.repository} is incomplete: it has no {file}{only}"
    return None


def bare_repository(model: HubModel, names: list[str]) -> UnsupportedModelError:
    """The error for a repository without a model_index.json, of these files."""
    weights = [name for name in names if has_suffix(name)]
    has = f"has {summary(weights)}" if weights else "has no weights"
    return UnsupportedModelError(
        f"{model.repository} {has}, and no model_index.json: {layout_advice()}, named as {model.repository}:FILE"
    )


@waiting_for_hub
def fetch_folder(model: HubModel, name: str) -> Path:
    """Fetch the folder `name` of `model`'s repository, if it exists, and return its parent folder.

    Raises:
        CheckpointError: it cannot be fetched.
    """
    files = [f"{name}/*.json", f"{name}/*.safetensors"]
    with fetch_errors(model.repository):
        return in_cache(snapshot_download(model.repository, revision=model.revision, allow_patterns=files))


@waiting_for_hub
def fetch_lora(lora: HubName) -> Path:
    """Fetch the file of `lora`.

    Raises:
        CheckpointError: it cannot be fetched, or `lora` names no file and its repository does not have exactly one.
    """
    with fetch_errors(lora.repository):
        file = lora.file
        if file is None:
            file = single_weights_file(lora.repository, file_names(lora.repository, lora.revision))
        return in_cache(hf_hub_download(lora.repository, file, revision=lora.revision))


@waiting_for_hub
def fetch_upsampler(upsampler: HubName) -> Path:
    """Fetch an upsampler of its own, and return its folder or file.

    Raises:
        CheckpointError: it cannot be fetched, or the repository does not have exactly one.
    """
    repository, revision, files = upsampler.repository, upsampler.revision, [upsampler.file or ""]
    with fetch_errors(repository):
        if upsampler.file is None:
            files = names_in_repository(repository, file_names(repository, revision))
        if len(files) > 1:
            return upsampler_in(in_cache(snapshot_download(repository, revision=revision, allow_patterns=files)))
        file = in_cache(hf_hub_download(repository, files[0], revision=revision))
    upsampler_config(file)
    return file


def in_cache(fetched: str) -> Path:
    """The path of what was fetched.

    Raises:
        CheckpointError: it does not lie in the hub's cache.
    """
    path = Path(fetched)
    if not path.resolve().is_relative_to(Path(constants.HF_HUB_CACHE).resolve()):
        raise CheckpointError(f"{fetched:.200} is not in the hub's cache, {constants.HF_HUB_CACHE}")
    return path
