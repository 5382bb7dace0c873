"""Building the text encoder of a model in files, and its tokenizer."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import init_empty_weights
from tokenizers import AddedToken
from transformers import Gemma3Config, Gemma4UnifiedConfig, GemmaTokenizer

from ltx2.checkpoints.components import TextEncoder
from ltx2.checkpoints.files.encoders import SENTENCEPIECE
from ltx2.checkpoints.files.tokenizers import TOKENIZER
from ltx2.checkpoints.formats.sentencepiece import read_sentencepiece
from ltx2.checkpoints.formats.vocabulary import Vocabulary, read_vocabulary
from ltx2.errors import CheckpointError
from ltx2.media.temporary import temporary_folder
from ltx2.model.weights.file_loading import KeepQuantized, fill

IMAGE = "<image_soft_token>"
"""The token after all pieces of Gemma 3, which its tokenizer.json adds, and a sentencepiece model does not have."""


def load_encoder(kind: Any, encoder: TextEncoder, dtype: torch.dtype, keep: KeepQuantized | None = None) -> Any:
    """The text encoder in one file as the class `kind` of transformers.

    keep: for its quantized linear layers. All else is in `dtype`.

    Raises:
        CheckpointError: tensors are missing, of another shape, or unexpected.
    """
    of_config = Gemma4UnifiedConfig if encoder.config["model_type"] == "gemma4_unified" else Gemma3Config
    config = of_config.from_dict(dict(encoder.config))
    if of_config is Gemma4UnifiedConfig:
        config.vision_config = config.audio_config = None  # prompts are text
    with init_empty_weights(include_buffers=False):
        model = kind._from_config(config, dtype=dtype)
    return fill(model, encoder.source, encoder.tensors, dtype, keep)


def load_tokenizer(encoder: TextEncoder) -> Any:
    """The tokenizer of a text encoder: from its folder, the files that its file contains, or its vocabulary.

    Raises:
        CheckpointError: its file lacks a part of it, or has tokens without an embedding.
    """
    if encoder.tokenizer is not None:
        return GemmaTokenizer.from_pretrained(encoder.tokenizer)
    if TOKENIZER in encoder.assets:
        with temporary_folder("longtake-tokenizer-") as folder:
            for name, stored in encoder.assets.items():
                (folder / name).write_bytes(stored.read())
            return GemmaTokenizer.from_pretrained(folder)
    if SENTENCEPIECE not in encoder.assets:
        return _checked(read_vocabulary(encoder.source), encoder)
    tokenizer = _checked(read_sentencepiece(encoder.source, encoder.assets[SENTENCEPIECE].read()), encoder)
    if len(tokenizer) < encoder.config["text_config"]["vocab_size"]:
        tokenizer.add_tokens([AddedToken(IMAGE, special=True, normalized=False)])
    return tokenizer


def _checked(vocabulary: Vocabulary, encoder: TextEncoder) -> Any:
    """`tokenizer_of` the vocabulary of `encoder`: on a GPU, a token without an embedding would end the process."""
    file, text = encoder.source, encoder.config["text_config"]
    if missing := set(vocabulary.special.values()) - set(vocabulary.pieces):
        raise CheckpointError(f"{file} has no token {min(missing)!r:.200}")
    tokenizer = tokenizer_of(vocabulary, text["max_position_embeddings"])
    largest, rows = max(tokenizer.get_vocab().values()), text["vocab_size"]
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
