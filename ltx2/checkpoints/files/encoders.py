"""The text encoder of a model in files: a folder of transformers, or a file with its tokenizer. No torch.

The authors' files have the config and the tokenizer of transformers in them. ComfyUI's files of Gemma 3 have a
sentencepiece model and no config.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

from ltx2.checkpoints.components import Stored, TextEncoder
from ltx2.checkpoints.files.authors_names import ASSETS, place_of
from ltx2.checkpoints.files.gemma_config import config_of_shapes
from ltx2.checkpoints.files.gguf_encoder import ONLY_IN_GEMMA_4, encoder_in_gguf, has_vocabulary
from ltx2.checkpoints.files.tokenizers import TOKENIZER, TOKENIZER_CONFIG, tokenizer_among
from ltx2.checkpoints.formats.gguf import ARCHITECTURE
from ltx2.checkpoints.formats.sentencepiece import MOST_BYTES
from ltx2.checkpoints.formats.weight_files import Header, check_weights, read_json
from ltx2.checkpoints.quantized import refuse_quantized
from ltx2.checkpoints.variant import Config
from ltx2.errors import CheckpointError, UnsupportedModelError

CONFIG = "gemma_config"
"""The key of the metadata that has the config of transformers."""
SENTENCEPIECE = "spiece_model"
"""The tensor with a sentencepiece model, as of `ltx2.checkpoints.formats.sentencepiece`."""
_TOKENIZER_TENSOR, _FILE_TENSOR = "tokenizer_json", "hf_asset__"
_TYPES = ("gemma3", "gemma4_unified")
_LANGUAGE_MODEL = re.compile(r"(?:model\.)?language_model\.(?:model\.)?(.+)")
"""Where files of different ages have the language model; all else is not needed for prompts."""


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


def _tokenizer_of(folder: Path, rows: int | None = None) -> Path | None:
    """The folder of the tokenizer for weights in `folder`; None if there is none. See `tokenizer_among`."""
    return tokenizer_among((folder.parent / "tokenizer", folder), rows)


def _tokenizer_near(file: Path, config: Config) -> Path:
    """The folder of the tokenizer for a `file` that has none. Files of other models may be next to it."""
    other, text = "", config.get("text_config")
    rows = text.get("vocab_size") if isinstance(text, dict) else None
    try:
        if (found := _tokenizer_of(file.parent, rows if isinstance(rows, int) else None)) is not None:
            return found
    except CheckpointError as error:
        other = f" ({error})"
    raise UnsupportedModelError(
        f"text_encoder: {file} has no tokenizer of Gemma in it{other}: put {TOKENIZER} and {TOKENIZER_CONFIG} of this "
        "Gemma next to it, or name the folder of such a text encoder"
    )


def encoder_in_file(file: Path, header: Header, weights: dict[str, Stored]) -> TextEncoder:
    """The text encoder in `file`. weights: all in the file, by name.

    Its tokenizer is in the file, or next to it. Gemma 3 needs no config: that follows from its tensors.

    Raises:
        UnsupportedModelError: it has no tokenizer, or is a Gemma 4 without a config.
        CheckpointError: its config cannot be read.
    """
    if ARCHITECTURE in header.metadata:
        found = encoder_in_gguf(file, header)
        return found if has_vocabulary(header) else replace(found, tokenizer=_tokenizer_near(file, found.config))
    tensors = {}
    for name, stored in weights.items():
        place = place_of(name)
        if place is not None and (match := _LANGUAGE_MODEL.fullmatch(place[1])) and place[0] == "text_encoder":
            tensors[f"language_model.{match[1]}"] = stored
    assets = {
        _asset_name(name): Stored.of(file, name, one) for name, one in header.tensors.items() if name.startswith(ASSETS)
    }
    config = _config(file, header, tensors)
    if TOKENIZER in assets and TOKENIZER_CONFIG not in assets:
        raise CheckpointError(f"{file} has no {TOKENIZER_CONFIG} in it")
    tokenizer = None if TOKENIZER in assets or SENTENCEPIECE in assets else _tokenizer_near(file, config)
    if SENTENCEPIECE in assets and assets[SENTENCEPIECE].size > MOST_BYTES:
        raise CheckpointError(f"{file} has a {SENTENCEPIECE} of {assets[SENTENCEPIECE].size:,} bytes")
    return TextEncoder(file, config, tokenizer, tensors, assets)


def _config(file: Path, header: Header, tensors: dict[str, Stored]) -> Config:
    if CONFIG not in header.metadata:
        if any(name.endswith(ONLY_IN_GEMMA_4) for name in tensors):
            raise UnsupportedModelError(
                f"text_encoder: {file} is a Gemma 4 without {CONFIG} in it: name the authors' file, or the folder of "
                "such a text encoder, which has a config.json"
            )
        return config_of_shapes(file, tensors)
    try:
        config = json.loads(header.metadata[CONFIG])
    except (ValueError, RecursionError) as exc:
        raise CheckpointError(f"{file}: {CONFIG} in its header cannot be read: {exc}") from exc
    if not isinstance(config, dict) or config.get("model_type") not in _TYPES:
        raise UnsupportedModelError(f"text_encoder: {file} is none of {' and '.join(_TYPES)}")
    return config


def _asset_name(tensor: str) -> str:
    """The name of the file that is stored as `tensor`; only names without a path are kept."""
    return TOKENIZER if tensor == _TOKENIZER_TENSOR else Path(tensor.removeprefix(_FILE_TENSOR)).name
