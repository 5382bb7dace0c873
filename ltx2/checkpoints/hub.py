"""Fetching models and LoRAs from the Hugging Face hub into its cache (`HF_HOME`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, snapshot_download

from ltx2.checkpoints.lora import HubLora, single_weights_file
from ltx2.checkpoints.resolve import WEIGHTS, HubModel, check_configs
from ltx2.checkpoints.weight_files import shards_of
from ltx2.errors import CheckpointError

CONFIGS = ["model_index.json", "scheduler/*.json", "tokenizer/*", *(f"{name}/config.json" for name in WEIGHTS)]
INDEXES = [f"{name}/{stem}.safetensors.index.json" for name, stem in WEIGHTS.items()]


def fetch_model(model: HubModel) -> Path:
    """Fetch the files of `model` that are read, and return their folder. Weights are fetched after the configs pass.

    Where weights are sharded, those that the index names are fetched: a repository may hold the same weights twice.

    Raises:
        CheckpointError: the model cannot be fetched, or longtake does not support its configs.
    """
    with _fetch_errors(model.repository):
        few = CONFIGS + INDEXES
        folder = Path(snapshot_download(model.repository, revision=model.revision, allow_patterns=few))
    check_configs(folder)
    weights = [f"{name}/{file}" for name, stem in WEIGHTS.items() for file in _weight_files(folder / name, stem)]
    with _fetch_errors(model.repository):
        return Path(snapshot_download(model.repository, revision=model.revision, allow_patterns=few + weights))


def _weight_files(folder: Path, stem: str) -> list[str]:
    index = folder / f"{stem}.safetensors.index.json"
    return list(shards_of(index)) if index.is_file() else [f"{stem}.safetensors"]


def fetch_folder(model: HubModel, name: str) -> Path:
    """Fetch the folder `name` of `model`'s repository, if it exists, and return its parent folder.

    Raises:
        CheckpointError: it cannot be fetched.
    """
    files = [f"{name}/*.json", f"{name}/*.safetensors"]
    with _fetch_errors(model.repository):
        return Path(snapshot_download(model.repository, revision=model.revision, allow_patterns=files))


def fetch_lora(lora: HubLora) -> Path:
    """Fetch the file of `lora`.

    Raises:
        CheckpointError: it cannot be fetched, or `lora` names no file and its repository does not have exactly one.
    """
    with _fetch_errors(lora.repository):
        file = lora.file
        if file is None:
            names = HfApi().list_repo_files(lora.repository, revision=lora.revision)
            file = single_weights_file(lora.repository, names)
        return Path(hf_hub_download(lora.repository, file, revision=lora.revision))


@contextmanager
def _fetch_errors(repository: str) -> Iterator[None]:
    try:
        yield
    except CheckpointError:
        raise
    except Exception as exc:  # the hub's client raises many kinds of errors without a common base class
        raise CheckpointError(f"cannot fetch {repository}: {type(exc).__name__}: {exc}") from exc
