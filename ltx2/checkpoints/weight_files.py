"""Whether weight files are whole, told from their headers and sizes, without reading a tensor.

A safetensors file is a little-endian u64 n, n bytes of JSON (name -> dtype, shape, data_offsets) and the data. Large
models are several such files and an index that says which tensor is in which.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ltx2.errors import CheckpointError

Shapes = dict[str, tuple[int, ...]]

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_POINTER = b"version https://git-lfs"


def read_json(path: Path) -> dict[str, Any]:
    """The object in the file `path`; raises CheckpointError for one that is missing, unreadable or no object."""
    check_there(path)
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as exc:
        raise CheckpointError(f"cannot read {path}: {exc}") from exc
    if not isinstance(value, dict):
        raise CheckpointError(f"cannot read {path}: it holds a {type(value).__name__}, not an object")
    return value


def check_there(path: Path) -> None:
    """Raise CheckpointError unless `path` is a file with its content, not what Git LFS keeps in its place."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_POINTER))
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent} is incomplete: {path.name} is missing") from None
    except (OSError, ValueError) as exc:
        raise CheckpointError(f"cannot read {path}: {exc}") from exc
    if not start:
        raise CheckpointError(f"{path.parent} is incomplete: {path.name} is empty")
    if start == _POINTER:
        raise CheckpointError(f"{path} is a Git LFS pointer, not the file itself; `git lfs pull` fetches it")


def check_weights(folder: Path, stem: str) -> None:
    """Raise CheckpointError unless the weights `stem` in `folder`, in one file or in shards, are all there.

    An index and a single file may stand side by side; then both must be whole.
    """
    index, single = folder / f"{stem}.safetensors.index.json", folder / f"{stem}.safetensors"
    if not index.is_file():
        tensor_shapes(single)
        return
    if single.is_file():
        tensor_shapes(single)
    where = read_json(index).get("weight_map")
    if not isinstance(where, dict) or not where:
        raise CheckpointError(f"{index} has no weight_map")
    for shard in sorted(set(map(str, where.values()))):
        if Path(shard).name != shard:
            raise CheckpointError(f"{index} names a shard {shard!r:.200} that is not a file beside it")
        inside = tensor_shapes(folder / shard)
        absent = [name for name, file in where.items() if file == shard and name not in inside]
        if absent:
            raise CheckpointError(f"{folder / shard} lacks {some(absent)}, which {index.name} says are there")


def tensor_shapes(path: Path) -> Shapes:
    """Names and shapes of the tensors in the safetensors file `path`.

    Raises CheckpointError unless the file is as long as its header says, no longer and no shorter.
    """
    check_there(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
                raise CheckpointError(f"{path} is no safetensors file, or its header is cut off ({size} bytes)")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        ends = [int(entry["data_offsets"][1]) for entry in header.values()]
        shapes = {name: tuple(map(int, entry["shape"])) for name, entry in header.items()}
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as exc:
        raise CheckpointError(f"{path} is no safetensors file: its header cannot be read ({exc})") from exc
    promised = 8 + length + max(ends, default=0)
    if size != promised:
        raise CheckpointError(f"{path} has {size} bytes, and its header promises {promised}: fetch it again")
    return shapes


def some(names: list[str]) -> str:
    """The first of `names` and how many more there are, for messages."""
    return f"{names[0]:.200}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def check_loaded(folder: Path, info: Mapping[str, Any]) -> None:
    """Raise CheckpointError unless, by what a loader says of `folder`, its files and its model have the same tensors.

    info: the loader's `missing_keys`, `mismatched_keys` and `unexpected_keys`, each optional. A loader itself only
    warns, and leaves random numbers in the model.
    """
    told = {
        "missing_keys": "its files lack {}",
        "mismatched_keys": "the shape of {} is not what its config says",
        "unexpected_keys": "its config has no place for {}",
    }
    for kind, words in told.items():
        names = sorted(str(key if isinstance(key, str) else key[0]) for key in info.get(kind, ()))
        if names:
            raise CheckpointError(f"{folder}: {words.format(some(names))}")
