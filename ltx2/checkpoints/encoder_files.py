"""The text encoder of a model in files: a folder of transformers, or a file with config and tokenizer. No torch."""

from __future__ import annotations

import json
from pathlib import Path

from ltx2.checkpoints.authors_names import ASSETS, place_of
from ltx2.checkpoints.components import Stored, TextEncoder
from ltx2.checkpoints.gguf_encoder import encoder_in_gguf
from ltx2.checkpoints.quantized import refuse_quantized
from ltx2.checkpoints.weight_files import Header, check_file, check_weights, read_json
from ltx2.errors import CheckpointError, UnsupportedModelError

CONFIG = "gemma_config"
"""The key of the metadata that has the config of transformers."""
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
_TOKENIZER_TENSOR, _FILE_TENSOR = "tokenizer_json", "hf_asset__"
_TYPES = ("gemma3", "gemma4_unified")
GGUF_SUFFIX = ".gguf"


def encoder_folder(folder: Path) -> Path | None:
    """The folder with the text encoder: `folder` itself, or `text_encoder` in it; None if there is none."""
    for place in (folder / "text_encoder", folder):
        config = place / "config.json"
        if config.is_file() and read_json(config).get("model_type") in _TYPES:
            return place
    return None


def encoder_near(named: Path) -> Path | None:
    """The folder with a text encoder in the folder of a model, or next to the file of one."""
    folder = named if named.is_dir() else named.parent
    return encoder_folder(folder) if (folder / "text_encoder").is_dir() else None


def encoder_in_folder(named: Path) -> TextEncoder:
    """The text encoder in the folder `named`, or in its folder `text_encoder`. Headers and sizes are read.

    Its tokenizer is in the same folder, or in a folder `tokenizer` next to it, as in the layout of diffusers.

    Raises:
        CheckpointError: it is none, incomplete, or quantized.
    """
    folder = encoder_folder(named)
    if folder is None:
        raise UnsupportedModelError(f"text_encoder: {named} has no config.json of {' or '.join(_TYPES)}")
    config = read_json(folder / "config.json")
    refuse_quantized(folder.parent, {folder.name: config})
    check_weights(folder, "model")
    tokenizer = _tokenizer_of(folder)
    if tokenizer is None:
        raise CheckpointError(f"text_encoder: {folder} has no {TOKENIZER}, nor has a folder tokenizer next to it")
    return TextEncoder(folder, config, tokenizer, {}, {})


def _tokenizer_of(folder: Path) -> Path | None:
    """The folder of the tokenizer for weights in `folder`; None if there is none."""
    for place in (folder.parent / "tokenizer", folder):
        if (place / TOKENIZER).is_file():
            check_file(place / TOKENIZER_CONFIG)
            return place
    return None


def encoder_in_file(file: Path, header: Header, weights: dict[str, Stored]) -> TextEncoder:
    """The text encoder in `file`, whose config and tokenizer are there, too. weights: all in the file, by name.

    Raises:
        UnsupportedModelError: it has no config or no tokenizer.
    """
    if file.suffix == GGUF_SUFFIX:
        return encoder_in_gguf(file, header, _tokenizer_of(file.parent))
    missing = [CONFIG] if CONFIG not in header.metadata else []
    missing += [] if _TOKENIZER_TENSOR in header.tensors else [_TOKENIZER_TENSOR]
    if missing:
        raise UnsupportedModelError(
            f"text_encoder: {file} has no {' and no '.join(missing)} in it: name the folder of such a text encoder, "
            "which has a config.json and a tokenizer.json"
        )
    try:
        config = json.loads(header.metadata[CONFIG])
    except (ValueError, RecursionError) as exc:
        raise CheckpointError(f"{file}: {CONFIG} in its header cannot be read: {exc}") from exc
    if not isinstance(config, dict) or config.get("model_type") not in _TYPES:
        raise UnsupportedModelError(f"text_encoder: {file} is none of {' and '.join(_TYPES)}")
    tensors = {}
    for name, stored in weights.items():
        place = place_of(name)
        if place is not None and place[0] == "text_encoder":
            tensors[place[1]] = stored
    assets = {
        _asset_name(name): Stored.of(file, name, one) for name, one in header.tensors.items() if name.startswith(ASSETS)
    }
    return TextEncoder(file, config, None, tensors, assets)


def _asset_name(tensor: str) -> str:
    """The name of the file that is stored as `tensor`; only names without a path are kept."""
    return TOKENIZER if tensor == _TOKENIZER_TENSOR else Path(tensor.removeprefix(_FILE_TENSOR)).name
