"""Which text encoders in GGUF are accepted, from their headers; test_gguf_encoders.py has what they compute."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from ltx2.checkpoints.files.gguf_encoder import encoder_in_gguf
from ltx2.checkpoints.files.model import describe
from ltx2.checkpoints.files.recognition import FileKind, header_of, recognize
from ltx2.checkpoints.reports.check import check_model
from ltx2.checkpoints.resolve import FileModel, resolve_model
from ltx2.errors import CheckpointError, UnsupportedModelError
from tests.ltx2.checkpoint_files import edit
from tests.ltx2.exported_encoders import comfy_encoder, gguf_encoder
from tests.ltx2.exported_files import header_only, split_files

WIDE = {"context_length": 1024, "embedding_length": 3840, "block_count": 48, "feed_forward_length": 15360}
WIDE |= {"attention.head_count": 16, "attention.head_count_kv": 8, "attention.key_length": 256}
WIDE |= {"attention.sliding_window": 1024}
FLOATS = {"attention.layer_norm_rms_epsilon": 1e-6, "rope.freq_base": 1e6}


def gemma(file: Path, architecture: str = "gemma3", **changes: Any) -> Path:
    values = {f"{architecture}.{name}": value for name, value in (WIDE | FLOATS).items()}
    values |= {"tokenizer.ggml.model": "llama"} | changes
    return header_only(file, architecture, **{name: value for name, value in values.items() if value is not None})


def test_the_config_is_that_of_the_published_model(tmp_path: Path) -> None:
    # Given the metadata of a Gemma 3 12B, with the factor of its positions and without
    for factor in ({"gemma3.rope.scaling.factor": 8.0}, {}):
        file = gemma(tmp_path / "gemma.gguf", **factor)
        # When
        config = encoder_in_gguf(file, header_of(file)).config
        # Then
        text = config["text_config"]
        assert text["rope_parameters"]["full_attention"] == {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}
        assert text["rope_parameters"]["sliding_attention"] == {"rope_type": "default", "rope_theta": 1e4}
        assert text["layer_types"] == (["sliding_attention"] * 5 + ["full_attention"]) * 8
        sizes = ("hidden_size", "num_hidden_layers", "head_dim", "query_pre_attn_scalar", "num_key_value_heads")
        assert [text[name] for name in sizes] == [3840, 48, 256, 256, 8]
    # and smaller models have none
    file = gemma(tmp_path / "gemma.gguf", **{"gemma3.block_count": 18})
    text = encoder_in_gguf(file, header_of(file)).config["text_config"]
    assert text["rope_parameters"]["full_attention"] == {"rope_type": "default", "rope_theta": 1e6}


def test_one_next_to_a_model_is_found_and_described(models: dict[str, Path], single: Path, tmp_path: Path) -> None:
    # Given a text encoder next to a model, with its tower for pictures
    folder = shutil.copytree(models["tiny"], tmp_path / "model")
    encoder = gguf_encoder(folder, single.parent / "gemma-3-Q8_0.gguf", "Q8_0")
    header_only(single.parent / "mmproj-F16.gguf", "clip", "v.blk.0.attn_q.weight")
    # When / Then
    assert resolve_model(str(single), tmp_path) == FileModel(single)
    found = describe(single, None).text_encoder
    assert found is not None
    assert found.source == encoder
    report = check_model(str(single), tmp_path)
    assert (report.usable, report.missing) == (True, ())
    part = report.parts[-1]
    assert (part.name, part.source, part.precision) == ("text_encoder", str(encoder), "Q8_0 and F32")
    assert part.size == recognize(encoder).size
    # and it is told from others by itself
    alone = check_model(str(encoder), tmp_path)
    assert (alone.usable, alone.kind) == (False, "text encoder, architecture gemma3, 28 tensors")
    assert "name it as the `text_encoder` of a model" in str(alone.problem)


def test_what_is_no_text_encoder_of_the_model_is_refused(models: dict[str, Path], single: Path, tmp_path: Path) -> None:
    def refusal(encoder: Path, model: Path = single) -> str:
        with pytest.raises(CheckpointError) as error:
            resolve_model(str(model), tmp_path, str(encoder))
        return str(error.value)

    # Given
    file = tmp_path / "a.gguf"
    folder = shutil.copytree(models["tiny"], tmp_path / "model")
    newer = split_files(models["tiny-2.5"], tmp_path / "comfy")
    # When / Then
    assert "is a tower for pictures (mmproj)" in refusal(header_only(file, "clip", "v.blk.0.attn_q.weight"))
    assert "architecture gemma2" in refusal(header_only(file, "gemma2"))
    assert "48 layers of width 3840, so 188,160 numbers for each token; this model reads 96" in refusal(gemma(file))
    assert "gemma3.embedding_length in its metadata is missing" in refusal(
        gemma(file, **{"gemma3.embedding_length": None})
    )
    for name, value, wrong in (
        ("block_count", 1 << 31, "is 2147483648; it must be 1 to 1048576"),
        ("block_count", 1001, "it must be at most 1000"),
        ("attention.head_count", 0, "it must be 1 to"),
        ("rope.freq_base", float("inf"), "it must be positive"),
    ):
        assert wrong in refusal(gemma(file, **{f"gemma3.{name}": value}))
    assert "is one of 2 parts: join them with" in refusal(gemma(file, **{"split.count": 2}))
    assert "has no tokenizer of Gemma in it: put" in refusal(gemma(file, **{"tokenizer.ggml.model": None}))
    assert "lacks token_embd.weight" in refusal(
        header_only(file, "gemma3", "output_norm.weight", **{"gemma3.block_count": 1})
    )
    four = {"gemma4.attention.key_length_swa": 256}
    assert "is a Gemma 4 with expert_count" in refusal(gemma(file, "gemma4", **{"gemma4.expert_count": 128}), newer)
    assert "lacks rope_freqs.weight" in refusal(gemma(file, "gemma4", **four), newer)
    folder_2_5 = shutil.copytree(models["tiny-2.5"], tmp_path / "newer")
    stock = gguf_encoder(folder_2_5, tmp_path / "gemma-4-12b.gguf", "Q8_0", name="Gemma 4 12B It")
    assert "may be a stock Gemma 4; LTX-2.5 was trained with gemma4-12b-ltx-v1" in refusal(stock, newer)
    assert "are mixed" in refusal(stock.rename(tmp_path / "ltx.gguf"))
    three = gguf_encoder(folder, tmp_path / "gemma-3.gguf", "Q8_0")
    assert "are mixed" in refusal(three, newer)
    # and a folder of another size is refused, too
    edit(folder / "text_encoder/config.json", text_config={"hidden_size": 32, "num_hidden_layers": 4})
    assert "4 layers of width 32" in refusal(folder)


def test_a_tokenizer_next_to_it_is_used_where_it_has_none(
    models: dict[str, Path], single: Path, tmp_path: Path
) -> None:
    def found(file: Path) -> Path | None:
        encoder = describe(single, file).text_encoder
        assert encoder is not None
        return encoder.tokenizer

    def refusal(file: Path) -> str:
        with pytest.raises(CheckpointError) as error:
            found(file)
        assert check_model(str(single), tmp_path, str(file)).problem == str(error.value)
        return str(error.value)

    # Given three text encoders, one with a vocabulary, one with a sentencepiece model and one without a tokenizer
    place = tmp_path / "text_encoders"
    place.mkdir()
    folder = shutil.copytree(models["tiny"], tmp_path / "model")
    with_vocabulary = gguf_encoder(folder, place / "gemma.gguf", "Q8_0")
    with_model = comfy_encoder(shutil.copytree(models["tiny"], tmp_path / "other"), place / "gemma.safetensors")
    bare = place / "bare.safetensors"
    save_file({name: one for name, one in load_file(with_model).items() if name != "spiece_model"}, bare)
    tokenizer, config = (place / name for name in ("tokenizer.json", "tokenizer_config.json"))
    own = (models["tiny"] / "tokenizer/tokenizer.json").read_text()
    few = json.loads(own)
    few["added_tokens"] = few["added_tokens"][:4]
    few["model"]["vocab"] = {piece: number for piece, number in few["model"]["vocab"].items() if number < 500}
    # When what is next to them is damaged, or of another model
    for text, wrong in (
        (own, "tokenizer_config.json is missing"),
        ("{}", "has no vocabulary of byte-pair encoding"),
        ('{"model": {"vocab": [["</s>", 0.0]]}}', "has no vocabulary of byte-pair encoding"),
        ('{"model": {"vocab": {"<pad>": 0', "cannot read"),
        ('{"model": {"vocab": {"<pad>": 0, "</s>": 1}}}', "is not of a Gemma: it has no token <bos> and 2 more"),
        (json.dumps(few), "is of another Gemma: it has 500 tokens, and the text encoder has embeddings for 512"),
    ):
        tokenizer.write_text(text)
        # Then only the one that needs it is refused
        assert found(with_vocabulary) is found(with_model) is None
        message = refusal(bare)
        assert "has no tokenizer of Gemma in it (" in message
        assert wrong in message
        config.write_text("{}")
    # and one of its own is used, and in folders checked as well
    tokenizer.write_text(own)
    assert found(bare) == place
    for name in ("text_encoder", "tokenizer"):
        shutil.copytree(models["tiny"] / name, tmp_path / "folder" / name)
    other = own.replace('"<bos>"', '"<s>"')
    (tmp_path / "folder/tokenizer/tokenizer.json").write_text(other)
    assert "is not of a Gemma: it has no token <bos>" in refusal(tmp_path / "folder")
    (folder / "tokenizer/tokenizer.json").write_text(other)
    with pytest.raises(UnsupportedModelError, match=r"tokenizer\.json is not of a Gemma"):
        resolve_model(str(folder), tmp_path)


@pytest.mark.parametrize(
    ("architecture", "tensors", "kind"),
    [
        ("wan", ("blocks.0.self_attn.q.weight", "patch_embedding.weight"), FileKind.UNKNOWN),
        ("flux", ("double_blocks.0.img_attn.qkv.weight", "img_in.weight"), FileKind.UNKNOWN),
        ("ltxv", ("transformer_blocks.0.attn1.to_q.weight", "patchify_proj.weight"), FileKind.LTX_VIDEO),
        ("llama", ("blk.0.attn_q.weight", "token_embd.weight"), FileKind.UNKNOWN),
        ("clip", ("v.blk.0.attn_q.weight", "mm.input_projection.weight"), FileKind.PROJECTOR),
    ],
)
def test_gguf_files_of_other_models_are_named(
    tmp_path: Path, architecture: str, tensors: tuple[str, ...], kind: FileKind
) -> None:
    # Given
    file = header_only(tmp_path / "a.gguf", architecture, *tensors)
    # When / Then
    found = recognize(file)
    assert (found.kind, found.is_model, found.parts) == (kind, False, ())
    assert str(found).endswith(f"F32, architecture {architecture}, 2 tensors)")
    with pytest.raises(UnsupportedModelError) as error:
        resolve_model(str(file), tmp_path)
    assert str(error.value) == f"{found}: {found.advice}"
