"""Checking that weight files are complete, without reading a tensor."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from ltx2.checkpoints.formats.weight_files import check_weights, read_json, tensor_shapes
from ltx2.errors import CheckpointError, UnsupportedModelError
from tests.ltx2.checkpoint_files import POINTER, shard

STEM = "diffusion_pytorch_model"


def with_header(offsets: dict[str, Any], dtype: str = "I64", metadata: dict[str, Any] | None = None) -> bytes:
    """A file whose header has tensors with these offsets, and no data."""
    entries: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    entries |= {name: {"dtype": dtype, "shape": [1], "data_offsets": pair} for name, pair in offsets.items()}
    header = json.dumps(entries).replace("Infinity", "1e999").encode()
    return len(header).to_bytes(8, "little") + header


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    path = tmp_path / f"{STEM}.safetensors"
    save_file({"a": torch.ones(2, 3), "b": torch.ones(4), "c": torch.ones(())}, path)
    return path


def test_names_and_shapes_are_read(whole: Path) -> None:
    assert tensor_shapes(whole) == {"a": (2, 3), "b": (4,), "c": ()}


def test_complete_weights_pass_in_one_file_or_in_shards(whole: Path) -> None:
    check_weights(whole.parent, STEM)
    shard(whole)
    check_weights(whole.parent, STEM)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"", "is incomplete: .*is empty"),
        (lambda data: POINTER, "is a Git LFS pointer, not the file itself"),
        (lambda data: data[:7], r"its header is truncated \(7 bytes\)"),
        (lambda data: data[:40], r"its header is truncated \(40 bytes\)"),
        (lambda data: data[:-1], "has .* bytes, but its header declares .*: download it again"),
        (lambda data: data + b"x", "has .* bytes, but its header declares"),
        (lambda data: b"\xff" * 8 + data[8:], "its header is truncated"),
        (lambda data: (2).to_bytes(8, "little") + b"[]", "its header cannot be read"),
        (lambda data: (9).to_bytes(8, "little") + b'{"a": {}}', "its header cannot be read"),
        (lambda data: (9).to_bytes(8, "little") + b"\x80pickle!!", "its header cannot be read"),
        (lambda data: with_header({"a": [0, float("inf")]}), "its header cannot be read"),
        (lambda data: with_header({"a": [0, 10**400]}), r"has \d+ bytes, but its header declares"),
        (lambda data: with_header({"a": [4, 0]}), "its header cannot be read"),
        (lambda data: with_header({"a": [-4, 0]}), "its header cannot be read"),
        (lambda data: with_header({"a": [False, 4]}), "its header cannot be read"),
        (lambda data: with_header({"a": [0, 8]}, "F32"), r"its header cannot be read \(8 bytes for F32 \[1\]\)"),
        (lambda data: with_header({}, "F32", {"a": "x", "config": {}}), "the metadata config is not a text"),
        (lambda data: with_header({f"t{i}": [0, 0] for i in range(50_001)}), "has 50,001 tensors, the limit is 50,000"),
        (lambda data: (9 << 20).to_bytes(8, "little") + bytes(9 << 20), "has a header of 9,437,184 bytes, the limit"),
    ],
)
def test_a_damaged_file_is_rejected(whole: Path, damage: Callable[[bytes], bytes], message: str) -> None:
    whole.write_bytes(damage(whole.read_bytes()))
    with pytest.raises(CheckpointError, match=message):
        check_weights(whole.parent, STEM)


@given(st.binary(max_size=200))
def test_any_bytes_are_weights_or_a_checkpoint_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(data)
    try:
        assert tensor_shapes(path) == {}
    except CheckpointError:
        return


def test_a_missing_or_truncated_shard_is_named(whole: Path) -> None:
    shard(whole)
    second = whole.with_name(f"{STEM}-00002-of-00002.safetensors")
    os.truncate(second, second.stat().st_size - 1)
    with pytest.raises(CheckpointError, match=r"00002-of-00002\.safetensors has .* its header declares"):
        check_weights(whole.parent, STEM)
    second.unlink()
    with pytest.raises(CheckpointError, match=r"is incomplete: .*00002-of-00002\.safetensors is missing"):
        check_weights(whole.parent, STEM)


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        (None, "has no weight_map"),
        ({}, "has no weight_map"),
        ({"a": f"{STEM}-00002-of-00002.safetensors"}, "lacks a, listed in .*index"),
        ({"a": "../a.safetensors"}, "not a file in the same folder"),
        ({"a": "/etc/passwd"}, "not a file in the same folder"),
    ],
)
def test_an_invalid_index_is_rejected(whole: Path, weight_map: object, message: str) -> None:
    shard(whole).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match=message):
        check_weights(whole.parent, STEM)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"{STEM}.fp16.safetensors", rf"its weights as a variant, {STEM}\.fp16\.safetensors: rename it to {STEM}\.s"),
        (f"{STEM}.bin", rf"has pickled weights, {STEM}\.bin; .*: get {STEM}\.safetensors"),
        ("other.safetensors", rf"is incomplete: {STEM}\.safetensors is missing"),
    ],
)
def test_weights_of_another_name_are_named(whole: Path, name: str, message: str) -> None:
    whole.rename(whole.with_name(name))
    with pytest.raises(CheckpointError, match=message):
        check_weights(whole.parent, STEM)


def test_weights_in_integers_are_refused(whole: Path) -> None:
    save_file({"a": torch.ones(2, 3), "number": torch.tensor(3, dtype=torch.uint8)}, whole)
    check_weights(whole.parent, STEM)
    save_file({"a": torch.ones(2, 3), "b._data": torch.ones(2, 3, dtype=torch.int8)}, whole)
    with pytest.raises(UnsupportedModelError, match=r"stores b\._data as I8: another library quantized it"):
        check_weights(whole.parent, STEM)


def test_a_single_file_next_to_shards_must_be_complete_too(whole: Path) -> None:
    data = whole.read_bytes()
    shard(whole)
    whole.write_bytes(data)
    check_weights(whole.parent, STEM)
    whole.write_bytes(data[:-1])
    with pytest.raises(CheckpointError, match="its header declares"):
        check_weights(whole.parent, STEM)


def test_only_regular_files_of_limited_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    (tmp_path / "large.json").write_bytes(b" " * (8 * 2**20 + 1))
    for name, message in (("config", "not a regular file"), ("zero", "not a regular file"), ("large", "larger than")):
        with pytest.raises(CheckpointError, match=message):
            read_json(tmp_path / f"{name}.json")
