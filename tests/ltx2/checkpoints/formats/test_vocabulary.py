"""Vocabularies in GGUF files: merges that follow from pieces, and what makes one unreadable."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltx2.checkpoints.formats import gguf as gguf_file
from ltx2.checkpoints.formats import vocabulary
from ltx2.checkpoints.formats.gguf import read_gguf
from ltx2.checkpoints.formats.vocabulary import merges_of, read_vocabulary
from ltx2.errors import CheckpointError
from tests.ltx2.exported_encoders import vocabulary_file
from tests.ltx2.exported_files import header_only

NORMAL, CONTROL, USER, BYTE = 1, 3, 4, 6


def test_user_defined_pieces_are_joined_first_and_then_pieces_by_number() -> None:
    # Given
    pieces = ["<pad>", "\n", "\n\n", "\n\n\n", "<0x00>", "ab", "abc", "a", "b", "c", "bc"]
    types = [CONTROL, USER, USER, USER, BYTE, *[NORMAL] * 6]
    # When / Then the longer left part is the first, where pieces have the same rank
    assert merges_of(pieces, types) == [
        ("\n\n", "\n"),
        ("\n", "\n\n"),
        ("\n", "\n"),
        ("a", "b"),
        ("ab", "c"),
        ("a", "bc"),
        ("b", "c"),
    ]


def test_pieces_of_spaces_are_written_as_tokenizers_have_them(tmp_path: Path) -> None:
    # Given
    pieces = ["<unk>", "<bos>", "\u2581", "  ", " a", "a", "<b>"]
    types = [2, CONTROL, NORMAL, USER, NORMAL, NORMAL, USER]
    # When
    found = read_vocabulary(vocabulary_file(tmp_path / "a.gguf", pieces, types, bos=1))
    # Then
    assert found.pieces == ("<unk>", "<bos>", "\u2581", "\u2581\u2581", " a", "a", "<b>")
    assert found.merges == (("\u2581", "\u2581"),)
    assert found.whole == ("<bos>", "\u2581\u2581", "<b>")
    assert found.special == {"bos": "<bos>", "eos": "<eos>", "unknown": "<unk>", "padding": "<pad>"}
    assert read_vocabulary(vocabulary_file(tmp_path / "b.gguf", pieces, types, bos=6)).special["bos"] == "<b>"


def test_what_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    def refusal(pieces: list[str], types: list[int], merges: list[str] | None = None) -> str:
        with pytest.raises(CheckpointError) as error:
            read_vocabulary(vocabulary_file(tmp_path / "a.gguf", pieces, types, merges))
        return str(error.value)

    # When / Then
    assert "has no tokenizer.ggml.tokens in its metadata" in refusal([], [1])
    assert "has no tokenizer.ggml.token_type in its metadata" in refusal(["a"], [])
    assert "has 2 tokens, but types for 1" in refusal(["a", "b"], [1])
    assert "a merge that is not a pair: 'ab'" in refusal(["a", "b"], [1, 1], ["ab"])
    assert "a merge of pieces that it does not have: ('a', 'b')" in refusal(["a", "b"], [1, 1], ["a b"])
    (tmp_path / "b.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match="is a damaged GGUF file"):
        read_vocabulary(tmp_path / "b.gguf")


def test_a_vocabulary_that_takes_too_much_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given pieces each of which has a merge at every place, 42 bytes in the file
    file = vocabulary_file(tmp_path / "a.gguf", ["a", "aa", "aaa", "aaaa"], [NORMAL] * 4)
    assert len(read_vocabulary(file).merges) == 6
    # When / Then
    monkeypatch.setattr(vocabulary, "MOST_MERGES", 5)
    with pytest.raises(CheckpointError, match="its tokens allow more than 5 merges"):
        read_vocabulary(file)
    monkeypatch.setattr(gguf_file, "_MOST_KEPT_BYTES", 41)
    with pytest.raises(CheckpointError, match="a list of more than 41 bytes of text"):
        read_vocabulary(file)
    # And so are the other texts of a file, and the names of its tensors
    named = (tmp_path / "b.gguf", "gemma3")
    long = [*named, *(chr(97 + number) * 20 for number in range(3))]
    with pytest.raises(CheckpointError, match="more than 41 bytes of metadata"):
        read_gguf(header_only(*named, a="b" * 42))
    monkeypatch.setattr(gguf_file, "_MOST_KEPT_BYTES", 130)
    assert read_gguf(header_only(*long[:4])).tensors
    with pytest.raises(CheckpointError, match="more than 130 bytes of names of tensors"):
        read_gguf(header_only(*long))
