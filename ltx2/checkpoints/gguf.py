"""The header of a GGUF file, as far as it says what the file is."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ltx2.errors import CheckpointError

MAGIC = b"GGUF"
_STRING, _ARRAY = 8, 9
_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """architecture: as the file names it, such as `ltxv`; None if it does not. tensors: their number."""

    architecture: str | None
    tensors: int


def read_gguf(path: Path) -> GgufHeader:
    """Read the header of `path`, up to the architecture.

    Raises:
        CheckpointError: it is not a GGUF file, or damaged.
    """
    try:
        with path.open("rb") as file:
            if file.read(4) != MAGIC:
                raise CheckpointError(f"{path} is not a GGUF file")
            _, tensors, keys = _unpack(file, "IQQ")
            for _ in range(min(int(keys), 1000)):
                name, value = _text(file), _value(file)
                if name == "general.architecture":
                    return GgufHeader(str(value)[:50], int(tensors))
            return GgufHeader(None, int(tensors))
    except (OSError, ValueError, KeyError, struct.error) as exc:
        raise CheckpointError(f"{path} is a damaged GGUF file: {exc}") from exc


def _value(file: BinaryIO) -> object:
    (kind,) = _unpack(file, "I")
    if kind == _STRING:
        return _text(file)
    if kind != _ARRAY:
        return _unpack(file, _FORMATS[int(kind)])[0]
    inner, count = _unpack(file, "IQ")
    for _ in range(int(count)):
        _text(file) if inner == _STRING else _unpack(file, _FORMATS[int(inner)])
    return None


def _text(file: BinaryIO) -> str:
    (length,) = _unpack(file, "Q")
    if length > _MOST_BYTES:
        raise ValueError(f"a text of {length} bytes")
    return file.read(int(length)).decode(errors="replace")


def _unpack(file: BinaryIO, layout: str) -> tuple[int, ...]:
    layout = f"<{layout}"
    return struct.unpack(layout, file.read(struct.calcsize(layout)))
