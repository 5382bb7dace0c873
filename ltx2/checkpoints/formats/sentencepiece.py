"""The vocabulary in a sentencepiece model, which ComfyUI's files of Gemma 3 have as a tensor. No torch.

A model is a message of protocol buffers. Its fields here are those of sentencepiece_model.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from ltx2.checkpoints.formats.vocabulary import SPECIAL, PieceType, Vocabulary, vocabulary_of
from ltx2.errors import CheckpointError, UnsupportedModelError

MOST_BYTES = 1 << 24
"""A larger model is refused: that of Gemma 3 has 4.7 MB."""
_MOST_PIECES = 1_000_000
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_PIECE, _SCORE, _TYPE = 1, 2, 3
_MODEL_TYPE, _BYTE_PAIRS = 3, 2
_DUMMY_PREFIX = 3
_EMPTY, _ZERO = memoryview(b""), memoryview(bytes(4))

Value = int | memoryview
"""A number, or the bytes of a text, a float or another message."""


def read_sentencepiece(file: Path, model: bytes) -> Vocabulary:
    """The vocabulary of the sentencepiece `model`. file: in which it is, for errors.

    Raises:
        UnsupportedModelError: it is not the model of a Gemma.
        CheckpointError: it is damaged.
    """
    try:
        pieces, scores, types, byte_pairs, prefixed = _read(memoryview(model))
    except (ValueError, IndexError, struct.error) as exc:
        raise CheckpointError(f"{file}: its sentencepiece model is damaged: {exc}") from exc
    absent = [spelled for spelled in SPECIAL.values() if spelled not in pieces]
    if absent or prefixed or not byte_pairs:
        raise UnsupportedModelError(f"text_encoder: {file} has a sentencepiece model that is not Gemma's")
    normal = [score for score, kind in zip(scores, types, strict=True) if kind == PieceType.NORMAL]
    if normal != sorted(normal, reverse=True):
        raise CheckpointError(f"{file}: its sentencepiece model has pieces that are not in the order of their scores")
    return vocabulary_of(file, tuple(pieces), types, dict(SPECIAL))


def _read(model: memoryview) -> tuple[list[str], list[float], list[int], bool, bool]:
    """Pieces, their scores and types, whether it merges byte pairs, and whether it puts a space before a text."""
    if len(model) > MOST_BYTES:
        raise ValueError(f"it has {len(model):,} bytes; the limit is {MOST_BYTES:,}")
    pieces: list[str] = []
    scores: list[float] = []
    types: list[int] = []
    byte_pairs, prefixed = False, True
    for number, value in _fields(model):
        if number == _PIECES:
            if len(pieces) == _MOST_PIECES:
                raise ValueError(f"it has more than {_MOST_PIECES:,} pieces")
            piece = dict(_fields(_message(value)))
            pieces.append(bytes(_message(piece.get(_PIECE, _EMPTY))).decode())
            scores.append(struct.unpack("<f", _message(piece.get(_SCORE, _ZERO)))[0])
            types.append(_number(piece.get(_TYPE, PieceType.NORMAL)))
        elif number == _TRAINER:
            byte_pairs = dict(_fields(_message(value))).get(_MODEL_TYPE) == _BYTE_PAIRS
        elif number == _NORMALIZER:
            prefixed = dict(_fields(_message(value))).get(_DUMMY_PREFIX, 1) != 0
    return pieces, scores, types, byte_pairs, prefixed


def _fields(message: memoryview) -> Iterator[tuple[int, Value]]:
    """The fields of a message, each with its number; ValueError or IndexError if it is damaged."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if kind == _LENGTH:
            length, at = _varint(message, at)
        elif kind in (_FOUR_BYTES, _EIGHT_BYTES):
            length = 4 if kind == _FOUR_BYTES else 8
        else:
            raise ValueError(f"a field of kind {kind}")
        if length > len(message) - at:
            raise ValueError("it ends early")
        yield key >> 3, message[at : at + length]
        at += length


def _message(value: Value) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where a text should be")
    return value


def _number(value: Value) -> int:
    if not isinstance(value, int):
        raise ValueError("a text where a number should be")
    return value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """The number that begins at `at`, seven bits in each byte, and where it ends."""
    found = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        found |= (byte & 0x7F) << shift
        if byte < 0x80:
            return found, at
    raise ValueError("a number of more than ten bytes")
