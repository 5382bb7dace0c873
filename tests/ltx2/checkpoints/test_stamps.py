"""Stamps of the files of a model."""

from __future__ import annotations

import os
from pathlib import Path

from ltx2.checkpoints.stamps import stamps_of


def test_every_file_of_a_folder_has_a_stamp(tmp_path: Path) -> None:
    # Given a model whose parts are files, links and a linked folder, also one to itself
    model, other = tmp_path / "model", tmp_path / "other"
    for path in (model / "vae" / "config.json", model / ".git" / "index", other / "weights", tmp_path / "blob"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"12")
        os.utime(path, ns=(5, 5))
    (model / "transformer").symlink_to(other)
    (model / "weights").symlink_to(tmp_path / "blob")
    (model / "vae" / "again").symlink_to(model)
    (model / "gone").symlink_to(tmp_path / "nothing")
    # When / Then
    stamps = stamps_of(str(model))
    assert stamps is not None
    assert stamps[:2] == [("transformer/weights", 2, 5), ("vae/config.json", 2, 5)]
    assert stamps[-1] == ("weights", 2, 5)
    assert stamps_of(f"{model}#full") == stamps
    # When a linked file is replaced, Then its stamp is another one
    (other / "weights").write_bytes(b"123")
    assert stamps_of(str(model)) != stamps


def test_a_file_and_what_is_not_on_this_machine(tmp_path: Path) -> None:
    (tmp_path / "one.safetensors").write_bytes(b"1")
    os.utime(tmp_path / "one.safetensors", ns=(7, 7))
    assert stamps_of(str(tmp_path / "one.safetensors")) == [("one.safetensors", 1, 7)]
    assert stamps_of("owner/name@main") is None
    assert stamps_of("a\0b") is None
