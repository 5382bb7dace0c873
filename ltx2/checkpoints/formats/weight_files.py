"""Checks that weight files are complete, from headers and sizes, without reading tensors.

A safetensors file is a little-endian u64 n, n bytes of JSON (name -> dtype, shape, data_offsets) and the data. A large
model is several such files (shards) and an index that maps each tensor to its file.
"""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ltx2.errors import CheckpointError, UnsupportedModelError

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a file. dtype: as the format names it, such as BF16. size: in bytes. begin: its first byte."""

    dtype: str
    shape: tuple[int, ...]
    size: int
    begin: int = 0


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a file of weights. metadata: text by key, as its writer left it.

    numbers: what a GGUF file says in numbers and short lists of them, by key.
    """

    tensors: dict[str, StoredTensor]
    metadata: dict[str, str]
    numbers: dict[str, Any] = field(default_factory=dict)


SUFFIXES = (".safetensors", ".gguf")
MAX_HEADER_BYTES = 8 * 2**20  # a full-size model has less than 2 MB
MAX_TENSORS = 50_000  # a full-size model has 5,000
MAX_JSON_BYTES = 8 * 2**20
_WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1}
_OTHER_FORMATS = {
    b"GGUF": "a GGUF file: rename it to end in .gguf",
    b"PK\x03\x04": "an archive, as of pickled weights: loading them could run any code",
}
"""How files of other formats begin."""
_POINTER = b"version https://git-lfs"


def has_suffix(name: str | Path, suffixes: tuple[str, ...] = SUFFIXES) -> bool:
    """Whether a file of this name has one of these suffixes, in small letters or capitals."""
    return str(name).lower().endswith(suffixes)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from `path`.

    Raises:
        CheckpointError: the file is missing, unreadable, or not a JSON object.
    """
    check_file(path)
    try:
        with path.open("rb") as file:
            text = file.read(MAX_JSON_BYTES + 1)
        if len(text) > MAX_JSON_BYTES:
            raise CheckpointError(
                f"{path} is larger than {MAX_JSON_BYTES:,} bytes, the limit for a JSON file of a model"
            )
        value = json.loads(text)
    except (OSError, ValueError, RecursionError) as exc:
        raise CheckpointError(f"cannot read {path}: {exc}") from exc
    if not isinstance(value, dict):
        raise CheckpointError(f"cannot read {path}: it must be a JSON object, not a {type(value).__name__}")
    return value


def read_config(folder: Path, kind: str) -> dict[str, Any]:
    """Read the config of the component in `folder`. CheckpointError: as `read_json`, or not of the class `kind`."""
    config = read_json(folder / "config.json")
    if (found := config.get("_class_name")) != kind:
        raise CheckpointError(f"{folder} has a {found!s:.100}, not a {kind}")
    return config


def check_file(path: Path) -> None:
    """Raise CheckpointError if `path` is missing, unreadable, no regular file, empty or a Git LFS pointer."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a device or pipe may never end
            raise CheckpointError(f"{path} is not a regular file")
        with path.open("rb") as file:
            start = file.read(len(_POINTER))
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent} is incomplete: {path.name} is missing") from None
    except (OSError, ValueError) as exc:
        raise CheckpointError(f"cannot read {path}: {exc}") from exc
    if not start:
        raise CheckpointError(f"{path.parent} is incomplete: {path.name} is empty")
    if start == _POINTER:
        raise CheckpointError(f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull`")


def check_weights(folder: Path, stem: str) -> None:
    """Raise CheckpointError unless the weights `stem` in `folder`, one file or shards, are complete.

    If there is both a single file and an index, both are checked.
    """
    index, single = folder / f"{stem}.safetensors.index.json", folder / f"{stem}.safetensors"
    if not index.is_file():
        if not single.is_file():
            _refuse_other_weights(folder, stem)
        _plain_tensors(single)
        return
    if single.is_file():
        _plain_tensors(single)
    for shard, listed in shards_of(index).items():
        inside = _plain_tensors(folder / shard)
        if absent := [name for name in listed if name not in inside]:
            raise CheckpointError(f"{folder / shard} lacks {summary(absent)}, listed in {index.name}")


def _plain_tensors(path: Path) -> Collection[str]:
    """The names of the tensors in `path`. UnsupportedModelError: weights are integers, as libraries quantize them."""
    tensors = read_header(path).tensors
    for name, tensor in tensors.items():
        if tensor.dtype in ("I8", "U8") and len(tensor.shape) > 1:
            raise UnsupportedModelError(
                f"{path} stores {name:.200} as {tensor.dtype}: another library quantized it; use weights in bf16"
            )
    return tensors.keys()


def _refuse_other_weights(folder: Path, stem: str) -> None:
    """Refuse weights in `folder` that are not called `stem`.safetensors: a variant, as diffusers calls it, or pickled.

    Raises:
        CheckpointError: there are such; names the first.
    """
    for file in sorted(folder.glob("*.safetensors")):
        if file.name.startswith(f"{stem}."):
            raise CheckpointError(
                f"{folder} has its weights as a variant, {file.name}: rename it to {stem}.safetensors"
            )
    for file in sorted(folder.glob("*.bin")):
        raise CheckpointError(
            f"{folder} has pickled weights, {file.name}; loading them could run any code: get {stem}.safetensors"
        )


def shards_of(index: Path) -> dict[str, list[str]]:
    """The shards that `index` names, files in its folder, with the tensors of each.

    Raises:
        CheckpointError: the index is unreadable, lists nothing, or names something else than a file in its folder.
    """
    where = read_json(index).get("weight_map")
    if not isinstance(where, dict) or not where:
        raise CheckpointError(f"{index} has no weight_map")
    shards: dict[str, list[str]] = {}
    for name, shard in sorted(where.items(), key=lambda item: str(item[1])):
        if Path(str(shard)).name != shard:
            raise CheckpointError(f"{index} names a shard {shard!r:.200} that is not a file in the same folder")
        shards.setdefault(shard, []).append(name)
    return shards


def tensor_shapes(path: Path) -> Shapes:
    """Names and shapes of the tensors in the safetensors file `path`. Raises the errors of `read_header`."""
    return {name: tensor.shape for name, tensor in read_header(path).tensors.items()}


def read_header(path: Path) -> Header:
    """The header of the safetensors file `path`.

    Raises:
        CheckpointError: the file is missing or damaged, or its size is not what its header declares.
    """
    check_file(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            if found := next((kind for magic, kind in _OTHER_FORMATS.items() if start.startswith(magic)), None):
                raise UnsupportedModelError(f"{path} is not a safetensors file, but {found}")
            length = int.from_bytes(start, "little")
            if size < 8 or length > size - 8:
                raise CheckpointError(f"{path} is not a safetensors file, or its header is truncated ({size} bytes)")
            if length > MAX_HEADER_BYTES:
                raise CheckpointError(f"{path} has a header of {length:,} bytes, the limit is {MAX_HEADER_BYTES:,}")
            text = file.read(length)
        if (count := text.count(b'"dtype"')) > MAX_TENSORS:
            raise CheckpointError(f"{path} has {count:,} tensors, the limit is {MAX_TENSORS:,}")
        header = json.loads(text)
        metadata = header.pop("__metadata__", None) or {}
        if wrong := [key for key, value in metadata.items() if not isinstance(value, str)]:
            raise ValueError(f"the metadata {summary(wrong)} is not a text")
        tensors = {name: _tensor(entry, 8 + length) for name, entry in header.items()}
        ends = [whole(entry["data_offsets"][1]) for entry in header.values()]
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as exc:
        raise CheckpointError(f"{path} is not a safetensors file: its header cannot be read ({exc})") from exc
    declared = 8 + length + max(ends, default=0)
    if size != declared:
        raise CheckpointError(f"{path} has {size} bytes, but its header declares {declared}: download it again")
    return Header(tensors, metadata)


def _tensor(entry: Mapping[str, Any], data: int) -> StoredTensor:
    """A tensor of a header; `data` is the byte at which the data begin. Raises ValueError, TypeError, KeyError or
    IndexError if it is not one.
    """
    start, end = map(whole, entry["data_offsets"])
    if start > end:
        raise ValueError(f"data_offsets {start} and {end}")
    dtype, shape = str(entry["dtype"]), tuple(map(whole, entry["shape"]))
    if dtype in _WIDTHS and math.prod(shape) * _WIDTHS[dtype] != end - start:
        raise ValueError(f"{end - start} bytes for {dtype} {list(shape)}")
    return StoredTensor(dtype, shape, end - start, data + start)


def whole(value: object) -> int:
    """`value`, a number of a header; ValueError if it is not a whole number of at least 0."""
    if type(value) is not int or value < 0:
        raise ValueError(f"a {type(value).__name__} where a whole number of at least 0 should be")
    return value


def weight_map(folder: Path, stem: str) -> dict[str, Path]:
    """The file of each tensor of the weights `stem` in `folder`; of an index and a single file, the index counts.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    index, single = folder / f"{stem}.safetensors.index.json", folder / f"{stem}.safetensors"
    if not index.is_file():
        return dict.fromkeys(tensor_shapes(single), single)
    return {name: folder / shard for shard, names in shards_of(index).items() for name in names}


def summary(names: list[str]) -> str:
    """The first of `names` and the number of others, for messages."""
    return f"{names[0]:.200}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def check_loaded(folder: Path, info: Mapping[str, Any]) -> None:
    """Raise CheckpointError unless the files in `folder` have exactly the tensors of the loaded model.

    info: `missing_keys`, `mismatched_keys` and `unexpected_keys` from the loader, each optional. The loader itself only
    warns, and leaves random numbers in the model.
    """
    messages = {
        "missing_keys": "its files lack {}",
        "mismatched_keys": "the shape of {} differs from its config",
        "unexpected_keys": "its files have {}, which its config does not describe",
    }
    for kind, message in messages.items():
        names = sorted(str(key if isinstance(key, str) else key[0]) for key in info.get(kind, ()))
        if names:
            raise CheckpointError(f"{folder}: {message.format(summary(names))}")
