"""A Git LFS pointer, sharded weights and edited configs for tests of checkpoints."""

from __future__ import annotations

import json
import math
from pathlib import Path

from safetensors.torch import load_file, save_file

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:15855fc5\nsize 111204124\n"


def shard(whole: Path) -> Path:
    """Split a weight file into two shards, and return their index file."""
    tensors, weight_map = load_file(whole), {}
    names = sorted(tensors)
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        name = f"{whole.stem}-0000{number}-of-00002.safetensors"
        save_file({key: tensors[key] for key in part}, whole.with_name(name))
        weight_map |= dict.fromkeys(part, name)
    whole.unlink()
    index = whole.with_name(f"{whole.name}.index.json")
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


_WIDTHS = {"F32": 4, "BF16": 2, "F16": 2, "F8_E4M3": 1, "U8": 1, "I8": 1}


def sparse(path: Path, tensors: dict[str, tuple[str, tuple[int, ...]]], **metadata: str) -> Path:
    """Write a safetensors file of zeros that takes no disk space. tensors: dtype and shape by name."""
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + _WIDTHS[dtype] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return path


def edit(path: Path, **keys: object) -> None:
    """Change `keys` of the JSON object in `path`."""
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))
