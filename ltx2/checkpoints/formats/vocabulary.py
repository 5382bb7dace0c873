"""The vocabulary of a Gemma in one file: its pieces, and the merges of byte-pair encoding. No torch.

A sentencepiece model, and a GGUF file that was made from one, have no merges. They follow from the pieces: every way to
cut one into two others, those of user-defined pieces first, then in the order of the pieces. For the published
vocabulary of Gemma 3 these are the merges of its tokenizer.json, in its order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from ltx2.checkpoints.formats.gguf import read_values
from ltx2.errors import CheckpointError

SPACE = "\u2581"
"""How a space is written in pieces."""
_TOKENS, _TYPES, _MERGES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.merges"
_LONGEST = 256
MOST_MERGES = 1_000_000
"""That follow from pieces; those of Gemma 3 are half as many. Hostile pieces have 255 each."""
SPECIAL = {"bos": "<bos>", "eos": "<eos>", "unknown": "<unk>", "padding": "<pad>"}
"""How Gemma spells its special pieces."""
_SPECIAL_IDS = {name: f"tokenizer.ggml.{name}_token_id" for name in SPECIAL}


class PieceType(IntEnum):
    """What a piece is, in sentencepiece and in GGUF alike."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """pieces: by id, with SPACE for spaces. merges: pairs of pieces, the first to be joined first.

    whole: pieces that are found in a text before it is cut. special: `bos`, `eos`, `unknown` and `padding`.
    """

    pieces: tuple[str, ...]
    merges: tuple[tuple[str, str], ...]
    whole: tuple[str, ...]
    special: dict[str, str]


def read_vocabulary(file: Path) -> Vocabulary:
    """The vocabulary of the GGUF `file`.

    Raises:
        CheckpointError: it has none, or it is damaged.
    """
    values = read_values(file, {_TOKENS, _TYPES, _MERGES, *_SPECIAL_IDS.values()})
    lists = {name: value for name, value in values.items() if isinstance(value, list)}
    if missing := [name for name in (_TOKENS, _TYPES) if name not in lists]:
        raise CheckpointError(f"{file} has no {missing[0]} in its metadata")
    if not all(isinstance(piece, str) for piece in lists[_TOKENS]):
        raise CheckpointError(f"{file} has tokens that are not texts")
    pieces = tuple(map(_with_spaces, lists[_TOKENS]))
    if len(lists[_TYPES]) != len(pieces):
        raise CheckpointError(f"{file} has {len(pieces)} tokens, but types for {len(lists[_TYPES])}")
    merges = tuple(_pair(file, merge) for merge in lists[_MERGES]) if _MERGES in lists else None
    special = {}
    for name, spelled in SPECIAL.items():
        number = values.get(_SPECIAL_IDS[name])
        special[name] = pieces[number] if isinstance(number, int) and 0 <= number < len(pieces) else spelled
    return vocabulary_of(file, pieces, lists[_TYPES], special, merges)


def vocabulary_of(
    file: Path,
    pieces: tuple[str, ...],
    types: Sequence[int],
    special: dict[str, str],
    merges: tuple[tuple[str, str], ...] | None = None,
) -> Vocabulary:
    """The vocabulary of these `pieces`, of the same number of `types`. merges: None if they follow from the pieces.

    Raises:
        CheckpointError: a piece of `file` is too long, a merge is of pieces that it does not have, or there are too
            many merges.
    """
    if (long := max(map(len, pieces), default=0)) > _LONGEST:
        raise CheckpointError(f"{file} has a token of {long} characters; the limit is {_LONGEST}")
    if merges is None:
        try:
            merges = tuple(merges_of(pieces, types))
        except ValueError as exc:
            raise CheckpointError(f"{file}: {exc}") from None
    known = set(pieces)
    if wrong := [pair for pair in merges if not {*pair, "".join(pair)} <= known]:
        raise CheckpointError(f"{file} has a merge of pieces that it does not have: {wrong[0]!r:.200}")
    whole = tuple(
        piece
        for piece, kind in zip(pieces, types, strict=True)
        if kind in (PieceType.CONTROL, PieceType.USER_DEFINED) and piece
    )
    return Vocabulary(pieces, merges, whole, special)


def merges_of(pieces: Sequence[str], types: Sequence[int]) -> list[tuple[str, str]]:
    """The merges that the `pieces` of these `types` allow, the first to be joined first.

    Raises:
        ValueError: there are more than MOST_MERGES.
    """
    ids = {piece: number for number, piece in enumerate(pieces)}
    normal = next((number for number, kind in enumerate(types) if kind == PieceType.NORMAL), 0)
    found = []
    for number, (piece, kind) in enumerate(zip(pieces, types, strict=True)):
        rank = 0 if kind == PieceType.USER_DEFINED else number - normal
        for cut in range(1, len(piece)):
            left, right = ids.get(piece[:cut]), ids.get(piece[cut:])
            if left is not None and right is not None:
                # longer parts first, where pieces have the same rank
                found.append((rank, -cut, cut - len(piece), number, left, right))
        if len(found) > MOST_MERGES:
            raise ValueError(f"its tokens allow more than {MOST_MERGES:,} merges")
    found.sort()
    return [(pieces[left], pieces[right]) for *_, left, right in found]


def _with_spaces(piece: str) -> str:
    """The piece with SPACE: GGUF files have real spaces where a piece is nothing but spaces."""
    return SPACE * len(piece) if piece and not piece.strip(" ") else piece


def _pair(file: Path, merge: str) -> tuple[str, str]:
    left, _, right = str(merge).partition(" ")
    if not left or not right:
        raise CheckpointError(f"{file} has a merge that is not a pair: {merge!r:.200}")
    return left, right
