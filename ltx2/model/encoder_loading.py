"""Building the text encoder of a model in files, and its tokenizer."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from tokenizers import AddedToken
from transformers import Gemma3Config, Gemma4UnifiedConfig, GemmaTokenizer

from ltx2.checkpoints.components import TextEncoder
from ltx2.checkpoints.encoder_files import GGUF_SUFFIX, TOKENIZER, TOKENIZER_CONFIG
from ltx2.checkpoints.recognition import header_of
from ltx2.checkpoints.vocabulary import Vocabulary, read_vocabulary
from ltx2.errors import CheckpointError
from ltx2.model.file_loading import KeepQuantized, fill
from ltx2.model.stored_tensors import StoredTensors


def load_encoder(
    kind: Any, encoder: TextEncoder, dtype: torch.dtype, keep: KeepQuantized | None = None
) -> tuple[Any, dict[str, Any]]:
    """The text encoder in one file as the class `kind` of transformers, and what its loader says of keys.

    keep: for the linear layers in the blocks of a GGUF file. All else is in `dtype`.
    """
    of_config = Gemma4UnifiedConfig if encoder.config["model_type"] == "gemma4_unified" else Gemma3Config
    config = of_config.from_dict(dict(encoder.config))
    if of_config is Gemma4UnifiedConfig:
        config.vision_config = config.audio_config = None  # prompts are text
    if encoder.source.suffix == GGUF_SUFFIX:
        with init_empty_weights(include_buffers=False):
            model = kind._from_config(config, dtype=dtype)
        tensors = {name.removeprefix("model."): stored for name, stored in encoder.tensors.items()}
        return fill(model, encoder.source, tensors, dtype, keep), {"missing_keys": (), "mismatched_keys": ()}
    stored = StoredTensors()
    state = {name: stored.read(one, dtype) for name, one in encoder.tensors.items()}
    options = {"config": config, "state_dict": state, "dtype": dtype, "key_mapping": kind.key_mapping}
    model, info = kind.from_pretrained(None, output_loading_info=True, use_safetensors=True, **options)
    return model, info


def load_tokenizer(encoder: TextEncoder) -> Any:
    """The tokenizer of a text encoder: from its folder, the files that its file contains, or its vocabulary.

    Raises:
        CheckpointError: its file lacks a part of it, or has tokens without an embedding.
    """
    if encoder.tokenizer is not None:
        return GemmaTokenizer.from_pretrained(encoder.tokenizer)
    if encoder.source.suffix == GGUF_SUFFIX:
        numbers = header_of(encoder.source).numbers
        text = encoder.config["text_config"]
        return _checked(read_vocabulary(encoder.source, numbers), encoder.source, text)
    if missing := {TOKENIZER, TOKENIZER_CONFIG} - encoder.assets.keys():
        raise CheckpointError(f"{encoder.source} has no {' and no '.join(sorted(missing))} in it")
    with tempfile.TemporaryDirectory() as folder:
        for name, stored in encoder.assets.items():
            Path(folder, name).write_bytes(stored.read())
        return GemmaTokenizer.from_pretrained(folder)


def _checked(vocabulary: Vocabulary, file: Path, text_config: Mapping[str, Any]) -> Any:
    """`tokenizer_of` the vocabulary of `file`: on a GPU, a token without an embedding would end the process."""
    if missing := set(vocabulary.special.values()) - set(vocabulary.pieces):
        raise CheckpointError(f"{file} has no token {min(missing)!r:.200}")
    tokenizer = tokenizer_of(vocabulary, text_config["max_position_embeddings"])
    largest, rows = max(tokenizer.get_vocab().values()), text_config["vocab_size"]
    if largest >= rows:
        raise CheckpointError(f"{file} has a token {largest}, but embeddings for {rows} tokens only")
    return tokenizer


def tokenizer_of(vocabulary: Vocabulary, longest: int) -> Any:
    """Gemma's tokenizer with this vocabulary. longest: tokens that a prompt may have."""
    special = vocabulary.special
    tokenizer = GemmaTokenizer(
        vocab={piece: number for number, piece in enumerate(vocabulary.pieces)},
        merges=list(vocabulary.merges),
        bos_token=special["bos"],
        eos_token=special["eos"],
        unk_token=special["unknown"],
        pad_token=special["padding"],
        add_bos_token=True,
        model_max_length=longest,
    )
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in vocabulary.whole])
    return tokenizer
