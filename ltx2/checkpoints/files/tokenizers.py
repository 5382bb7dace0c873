"""Finding the tokenizer of a text encoder in a folder, and telling it from those of other models. No torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ltx2.checkpoints.formats.vocabulary import SPECIAL
from ltx2.checkpoints.formats.weight_files import check_file, summary
from ltx2.errors import CheckpointError, UnsupportedModelError

TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
MOST_BYTES = 1 << 27
"""A larger tokenizer.json is refused: that of Gemma 3 has 33 MB."""
_VOCABULARY, _ADDED = re.compile(r'"vocab"\s*:\s*'), re.compile(r'"added_tokens"\s*:\s*(?=\[)')
_LEAST_SHARE = 0.99
"""The share of its embeddings that a vocabulary uses at least: those of Gemma 3 use all but 64 of 262,208."""


def tokenizer_among(places: Iterable[Path], rows: int | None = None) -> Path | None:
    """The first of the folders `places` that has a tokenizer as `check_tokenizer` wants it; None: none has one.

    Raises:
        CheckpointError: all that they have are damaged, or of other models; says the first.
    """
    first: CheckpointError | None = None
    for place in places:
        if (place / TOKENIZER).is_file():
            try:
                check_tokenizer(place, rows)
            except CheckpointError as error:
                first = first or error
            else:
                return place
    if first is not None:
        raise first
    return None


def check_tokenizer(folder: Path, rows: int | None = None) -> None:
    """Check that the tokenizer in `folder` is of a Gemma. rows: the embeddings of the text encoder, None to accept all.

    Raises:
        CheckpointError: a file is missing or damaged. UnsupportedModelError: it is the tokenizer of another model.
    """
    check_file(folder / TOKENIZER_CONFIG)
    check_file(folder / TOKENIZER)
    pieces = _pieces(folder / TOKENIZER)
    if missing := [piece for piece in SPECIAL.values() if piece not in pieces]:
        raise UnsupportedModelError(f"{folder / TOKENIZER} is not of a Gemma: it has no token {summary(missing)}")
    if rows is not None and not _LEAST_SHARE * rows <= len(pieces) <= rows:
        raise UnsupportedModelError(
            f"{folder / TOKENIZER} is of another Gemma: it has {len(pieces):,} tokens, and the text encoder has "
            f"embeddings for {rows:,}"
        )


def _pieces(file: Path) -> set[str]:
    """The tokens in a tokenizer.json, added ones too. Of its merges, which are most of the file, none is read."""
    if (size := file.stat().st_size) > MOST_BYTES:
        raise CheckpointError(f"{file} has {size:,} bytes; the limit is {MOST_BYTES:,}")
    try:
        text = file.read_text(encoding="utf-8")
        pieces, added = (_value(text, key) for key in (_VOCABULARY, _ADDED))
    except (OSError, ValueError, RecursionError) as exc:
        raise CheckpointError(f"cannot read {file}: {exc}") from exc
    if not isinstance(pieces, dict):
        raise UnsupportedModelError(f"{file} has no vocabulary of byte-pair encoding, which every Gemma has")
    contents = (one.get("content") for one in added or () if isinstance(one, dict))
    return {*pieces, *(content for content in contents if isinstance(content, str))}


def _value(text: str, key: re.Pattern[str]) -> Any:
    """The first value after `key` in JSON; None if there is none. ValueError: it cannot be read."""
    found = key.search(text)
    return json.JSONDecoder().raw_decode(text, found.end())[0] if found else None
