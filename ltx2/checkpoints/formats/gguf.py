"""The header of a GGUF file: its metadata and where its tensors are. No tensors are read."""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ltx2.checkpoints.formats.weight_files import StoredTensor, whole
from ltx2.errors import CheckpointError

MAGIC = b"GGUF"
ARCHITECTURE = "general.architecture"
"""The key of the metadata that every GGUF file has, and no other."""
ORIGINAL_SHAPE = "comfy.gguf.orig_shape."
"""The prefix of a key that says the shape of a tensor, which was stored in another shape to be quantized."""
_STRING, _ARRAY = 8, 9
_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_MOST_BYTES = 1 << 20
_MOST_ENTRIES = 1 << 20
_LONGEST_KEPT = 256  # a value per layer
_MOST_TEXTS = 1_000_000  # a vocabulary, or its merges
_MOST_KEPT_BYTES = 1 << 26  # of the metadata but long lists, of a list that is asked for, and of the tensors' entries
_MOST_SKIPPED = 1 << 40

BLOCKS = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    20: ("IQ4_NL", 32, 18),
    23: ("IQ4_XS", 256, 136),
    30: ("BF16", 1, 2),
}
"""The types of tensors, by their number: name, numbers in a block, and bytes of a block."""


_OTHERS = {9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 21: "IQ3_S", 22: "IQ2_S"}
_OTHERS |= {24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4"}
_OTHERS |= {40: "NVFP4", 41: "Q1_0"}
"""Types that are not read, for errors."""


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """architecture: as the file names it, such as `ltxv`; None if it does not. tensors: by name, with their place.

    A shape is that of the tensor, whatever its blocks are. metadata: the texts. numbers: the rest of the metadata,
    numbers and short lists of them.
    """

    architecture: str | None
    tensors: dict[str, StoredTensor]
    metadata: dict[str, str]
    numbers: dict[str, Any]


def read_gguf(path: Path) -> GgufHeader:
    """Read the header of `path`.

    Raises:
        CheckpointError: it is not a GGUF file, is damaged, or has a type of tensor that is not in BLOCKS.
    """
    with _opened(path) as file:
        count, keys = _counts(file, path)
        values = _values(file, keys)
        entries = _entries(file, count)
        alignment = int(str(values.get("general.alignment", 32)))
        if alignment < 1:
            raise ValueError(f"an alignment of {alignment}")
        start = math.ceil(file.tell() / alignment) * alignment
        tensors = {}
        for name, shape, kind, offset in entries:
            if kind not in BLOCKS:
                found = _OTHERS.get(kind, kind)
                raise CheckpointError(
                    f"{path} stores {name:.200} in GGUF type {found}, which longtake does not support"
                )
            dtype, numbers, size = BLOCKS[kind]
            original = values.get(f"{ORIGINAL_SHAPE}{name}")
            logical = tuple(map(whole, original)) if isinstance(original, list) else shape
            if math.prod(logical) != math.prod(shape):
                raise ValueError(f"{name:.200} has the shape {list(shape)}, but was {list(logical)}")
            tensors[name] = StoredTensor(dtype, logical, math.prod(shape) // numbers * size, start + offset)
        end = max((tensor.begin + tensor.size for tensor in tensors.values()), default=0)
        if end > path.stat().st_size:
            raise ValueError(f"its tensors end at {end}, but it has {path.stat().st_size} bytes: download it again")
    architecture = values.get(ARCHITECTURE)
    texts = {name: value for name, value in values.items() if isinstance(value, str)}
    others = {name: value for name, value in values.items() if value is not None and name not in texts}
    return GgufHeader(None if architecture is None else str(architecture)[:50], tensors, texts, others)


def read_values(path: Path, names: Collection[str]) -> dict[str, Any]:
    """The values of these `names` in the metadata of `path`, lists whole; those that it has.

    Raises:
        CheckpointError: it is not a GGUF file, or damaged.
    """
    found = {}
    with _opened(path) as file:
        _, keys = _counts(file, path)
        for _ in range(keys):
            name = _text(file)
            value = _value(file, whole=name in names)
            if name in names and value is not None:
                found[name] = value
    return found


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The open file; what is wrong in it is a CheckpointError."""
    try:
        with path.open("rb") as file:
            yield file
    except (OSError, ValueError, KeyError, struct.error) as exc:
        raise CheckpointError(f"{path} is a damaged GGUF file: {exc}") from exc


def _counts(file: BinaryIO, path: Path) -> tuple[int, int]:
    """How many tensors and keys the file has, whose start is read."""
    if file.read(4) != MAGIC:
        raise CheckpointError(f"{path} is not a GGUF file")
    _, count, keys = _unpack(file, "IQQ")
    if max(count, keys) > _MOST_ENTRIES:
        raise ValueError(f"{max(count, keys)} entries")
    return count, keys


def _values(file: BinaryIO, keys: int) -> dict[str, Any]:
    values, kept = dict[str, Any](), 0
    for _ in range(keys):
        name, begin = _text(file), file.tell()
        value = values[name] = _value(file)
        kept += len(name) + (0 if value is None else file.tell() - begin)
        if kept > _MOST_KEPT_BYTES:
            raise ValueError(f"more than {_MOST_KEPT_BYTES} bytes of metadata")
    return values


def _entries(file: BinaryIO, count: int) -> list[tuple[str, tuple[int, ...], int, int]]:
    begin, entries = file.tell(), []
    for _ in range(count):
        entries.append(_entry(file))
        if file.tell() - begin > _MOST_KEPT_BYTES:
            raise ValueError(f"more than {_MOST_KEPT_BYTES} bytes of names of tensors")
    return entries


def _entry(file: BinaryIO) -> tuple[str, tuple[int, ...], int, int]:
    """Name, shape as torch has it, type and offset of a tensor."""
    name = _text(file)
    (dims,) = _unpack(file, "I")
    if dims > 8:
        raise ValueError(f"{name:.200} has {dims} dimensions")
    shape = tuple(reversed(_unpack(file, f"{dims}Q")))
    kind, offset = _unpack(file, "IQ")
    return name, shape, kind, offset


def _value(file: BinaryIO, *, whole: bool = False) -> object:
    """A text, a number, or a list. If not `whole`, None for lists of texts and long lists of numbers."""
    (kind,) = _unpack(file, "I")
    if kind == _STRING:
        return _text(file)
    if kind != _ARRAY:
        return _unpack(file, _FORMATS[kind])[0]
    inner, count = _unpack(file, "IQ")
    if inner == _STRING:
        if count > _MOST_TEXTS:
            raise ValueError(f"a list of {count} texts")
        if whole:
            return _texts(file, count)
        for _ in range(count):
            _skip_text(file)
        return None
    if count > (_MOST_TEXTS if whole else _LONGEST_KEPT):
        file.seek(min(count, _MOST_SKIPPED) * struct.calcsize(_FORMATS[inner]), io.SEEK_CUR)
        return None
    return list(_unpack(file, f"{count}{_FORMATS[inner]}"))


def _text(file: BinaryIO) -> str:
    return file.read(_text_bytes(file)).decode(errors="replace")


def _skip_text(file: BinaryIO) -> None:
    file.seek(_text_bytes(file), io.SEEK_CUR)


def _text_bytes(file: BinaryIO) -> int:
    """How long the text is that begins here."""
    (length,) = _unpack(file, "Q")
    if length > _MOST_BYTES:
        raise ValueError(f"a text of {length} bytes")
    return length


def _texts(file: BinaryIO, count: int) -> list[str]:
    begin, texts = file.tell(), []
    for _ in range(count):
        texts.append(_text(file))
        if file.tell() - begin > _MOST_KEPT_BYTES:
            raise ValueError(f"a list of more than {_MOST_KEPT_BYTES} bytes of text")
    return texts


def _unpack(file: BinaryIO, layout: str) -> tuple[int, ...]:
    layout = f"<{layout}"
    return struct.unpack(layout, file.read(struct.calcsize(layout)))
