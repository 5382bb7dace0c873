"""Sentencepiece models: what is read is what protocol buffers wrote, and damage is an error."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import GemmaTokenizer
from transformers.utils.sentencepiece_model_pb2_new import ModelProto

from ltx2.checkpoints.formats.sentencepiece import read_sentencepiece
from ltx2.errors import CheckpointError, UnsupportedModelError
from tests.ltx2.exported_encoders import sentencepiece_model

FILE = Path("gemma.safetensors")
GEMMA = [("<pad>", 3), ("<eos>", 3), ("<bos>", 3), ("<unk>", 2)]


def proto(*pieces: tuple[str, int]) -> ModelProto:
    found = ModelProto()
    found.trainer_spec.model_type = 2
    found.normalizer_spec.add_dummy_prefix = False
    for number, (piece, kind) in enumerate((*GEMMA, *pieces)):
        found.pieces.add(piece=piece, score=-number, type=kind)
    return found


def test_pieces_and_merges_are_those_of_the_tokenizer_that_was_written(models: dict[str, Path]) -> None:
    # Given
    folder = models["tiny"] / "tokenizer"
    vocabulary = GemmaTokenizer.from_pretrained(folder).get_vocab()
    # When
    found = read_sentencepiece(FILE, sentencepiece_model(folder).SerializeToString())
    # Then
    assert {piece: number for number, piece in enumerate(found.pieces)} == vocabulary
    assert found.whole == ("<pad>", "<eos>", "<bos>", "<mask>")
    assert found.special == {"bos": "<bos>", "eos": "<eos>", "unknown": "<unk>", "padding": "<pad>"}
    assert {left + right for left, right in found.merges} >= {
        piece for piece in vocabulary if len(piece) > 1 and not piece.startswith("<")
    }


def test_fields_of_every_kind_are_passed_over() -> None:
    # Given what a newer writer may add: a number, eight bytes, four bytes, a text, and a number of ten bytes
    more = b"\x48\x05" + b"\x51" + bytes(8) + b"\x5d" + bytes(4) + b"\x62\x02ab" + b"\x68" + b"\xff" * 9 + b"\x01"
    # When
    found = read_sentencepiece(FILE, more + proto(("\u2581\u2581", 4), ("ab", 1)).SerializeToString() + more)
    # Then
    assert found.pieces[4:] == ("\u2581\u2581", "ab")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (b"\x0a\x05abc", "it ends early"),
        (b"\x0b", "a field of kind 3"),
        (b"\x08", "damaged"),
        (b"\x08" + b"\xff" * 10, "a number of more than ten bytes"),
        (b"\x08\x01", "a number where a text should be"),
        (b"\x0a\x02\x1a\x00", "a text where a number should be"),
        (b"\x0a\x03\x0a\x01\xff", "damaged: 'utf-8'"),
        (bytes((1 << 24) + 1), "it has 16,777,217 bytes; the limit is 16,777,216"),
        (proto(("a", 1), ("a" * 257, 1)).SerializeToString(), "a token of 257 characters"),
    ],
)
def test_a_damaged_model_is_an_error(model: bytes, said: str) -> None:
    with pytest.raises(CheckpointError, match=said) as error:
        read_sentencepiece(FILE, model)
    assert str(error.value).startswith(str(FILE))


def test_the_model_of_another_language_model_is_refused() -> None:
    unigram, prefixed, short, shuffled = (proto(("a", 1), ("b", 1)) for _ in range(4))
    unigram.trainer_spec.model_type = 1
    prefixed.normalizer_spec.add_dummy_prefix = True
    del short.pieces[2]
    for model in (unigram, prefixed, short):
        with pytest.raises(UnsupportedModelError, match="a sentencepiece model that is not Gemma's"):
            read_sentencepiece(FILE, model.SerializeToString())
    shuffled.pieces[5].score = 1
    with pytest.raises(CheckpointError, match="not in the order of their scores"):
        read_sentencepiece(FILE, shuffled.SerializeToString())
