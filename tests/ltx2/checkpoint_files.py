"""A Git LFS pointer, sharded weights and edited configs for tests of checkpoints."""

from __future__ import annotations

import json
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


def edit(path: Path, **keys: object) -> None:
    """Change `keys` of the JSON object in `path`."""
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))
