"""Models and LoRAs on the Hugging Face hub: fetched into the hub's own cache (`HF_HOME`), where they are files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, snapshot_download

from ltx2.checkpoints.lora import HubLora, only_weights
from ltx2.checkpoints.resolve import WEIGHTS, HubModel, check_configs
from ltx2.errors import CheckpointError

CONFIGS = ["model_index.json", "scheduler/*.json", "tokenizer/*", *(f"{name}/config.json" for name in WEIGHTS)]
_FORMS = ("{}.safetensors", "{}.safetensors.index.json", "{}-?????-of-?????.safetensors")  # whole, or in pieces
FILES = [f"{name}/{form.format(stem)}" for name, stem in WEIGHTS.items() for form in _FORMS]


def fetch_model(model: HubModel) -> Path:
    """The folder in the cache with all of `model` that is read; the weights only once its configs are seen to be right.

    Raises CheckpointError where it cannot be fetched, and for configs that longtake does not render.
    """
    with _fetching(model.repository):
        folder = Path(snapshot_download(model.repository, revision=model.revision, allow_patterns=CONFIGS))
    check_configs(folder)
    with _fetching(model.repository):
        return Path(snapshot_download(model.repository, revision=model.revision, allow_patterns=CONFIGS + FILES))


def fetch_folder(model: HubModel, name: str) -> Path:
    """The folder in the cache with the folder `name` of `model`'s repository in it, unless the repository has none.

    Raises CheckpointError where it cannot be fetched.
    """
    files = [f"{name}/*.json", f"{name}/*.safetensors"]
    with _fetching(model.repository):
        return Path(snapshot_download(model.repository, revision=model.revision, allow_patterns=files))


def fetch_lora(lora: HubLora) -> Path:
    """The file in the cache that `lora` names; raises CheckpointError where it cannot be fetched or told."""
    with _fetching(lora.repository):
        file = lora.file
        if file is None:
            names = HfApi().list_repo_files(lora.repository, revision=lora.revision)
            file = only_weights(lora.repository, names)
        return Path(hf_hub_download(lora.repository, file, revision=lora.revision))


@contextmanager
def _fetching(repository: str) -> Iterator[None]:
    try:
        yield
    except CheckpointError:
        raise
    except Exception as exc:  # the hub's client raises a dozen kinds that have no ancestor in common
        raise CheckpointError(f"cannot fetch {repository}: {type(exc).__name__}: {exc}") from exc
