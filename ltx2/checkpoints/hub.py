"""Fetching models and LoRAs from the Hugging Face hub into its cache (`HF_HOME`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, snapshot_download

from ltx2.checkpoints.lora import HubLora, single_weights_file
from ltx2.checkpoints.resolve import WEIGHTS, HubModel, check_configs
from ltx2.errors import CheckpointError

CONFIGS = ["model_index.json", "scheduler/*.json", "tokenizer/*", *(f"{name}/config.json" for name in WEIGHTS)]
_FORMS = ("{}.safetensors", "{}.safetensors.index.json", "{}-?????-of-?????.safetensors")  # one file, or shards
FILES = [f"{name}/{form.format(stem)}" for name, stem in WEIGHTS.items() for form in _FORMS]


def fetch_model(model: HubModel) -> Path:
    """Fetch the files of `model` that are read, and return their folder. Weights are fetched after the configs pass.

    Raises:
        CheckpointError: the model cannot be fetched, or longtake does not support its configs.
    """
    with _fetch_errors(model.repository):
        folder = Path(snapshot_download(model.repository, revision=model.revision, allow_patterns=CONFIGS))
    check_configs(folder)
    with _fetch_errors(model.repository):
        return Path(snapshot_download(model.repository, revision=model.revision, allow_patterns=CONFIGS + FILES))


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
