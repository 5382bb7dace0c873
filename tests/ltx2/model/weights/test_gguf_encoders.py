"""Text encoders in GGUF: hidden states, tokens and films are those of the same numbers in a folder, bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from ltx2.acceleration.stored_weights import GgufLinear, StoredWeights
from ltx2.checkpoints.components import TextEncoder
from ltx2.checkpoints.files.encoders import encoder_in_file
from ltx2.checkpoints.files.recognition import header_of
from ltx2.checkpoints.formats import gguf_blocks
from ltx2.checkpoints.random import make_readable, random_gemma_4, random_text_encoder
from ltx2.engine import Engine
from ltx2.errors import CheckpointError
from ltx2.model.text.streaming import StreamedWeights
from ltx2.model.weights.encoder_loading import load_encoder, load_tokenizer
from ltx2.model.weights.gemma import Gemma3, Gemma4
from ltx2.request import SegmentRequest
from ltx2.timeline import SegmentShape, exact, first_timing
from tests.ltx2.exported_encoders import gguf_encoder, vocabulary_file
from tests.ltx2.exported_files import single_file, split_files
from tests.ltx2.model.weights.encoder_checks import check_tokens, hidden

CLASSES: dict[str, Any] = {"gemma3": Gemma3, "gemma4": Gemma4}
REQUEST = SegmentRequest("a boat", 1, 96, 64, first_timing(SegmentShape(17, exact(24))))
KINDS = ["Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q4_0", "F16", "BF16"]


@pytest.fixture(scope="module")
def gemmas(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with a text encoder whose rows fit the blocks of every type, and a tokenizer, by family."""
    found = {}
    for family, make, layers in (("gemma3", random_text_encoder, 7), ("gemma4", random_gemma_4, 6)):
        folder = found[family] = tmp_path_factory.mktemp(family)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = make(512, width=256, layers=layers, longest=64, sliding_window=4)
        model.save_pretrained(folder / "text_encoder")
        make_readable(folder / "text_encoder")
        shutil.copytree(models["tiny" if family == "gemma3" else "tiny-2.5"] / "tokenizer", folder / "tokenizer")
    return found


def read(file: Path) -> TextEncoder:
    return encoder_in_file(file, header_of(file), {})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", CLASSES)
def test_hidden_states_are_those_of_the_numbers_in_the_blocks(
    gemmas: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, kind: str
) -> None:
    # Given few numbers that are converted at once
    monkeypatch.setattr(gguf_blocks, "MOST_AT_ONCE", 1 << 14)
    folder = shutil.copytree(gemmas[family], tmp_path / "model")
    encoder = read(gguf_encoder(folder, tmp_path / "gemma.gguf", kind))
    dtype = torch.bfloat16 if kind == "Q4_K" else torch.float32
    # When its layers stay in their blocks, and when they are converted
    kept = load_encoder(CLASSES[family], encoder, dtype, StoredWeights(float8=False))
    converted = load_encoder(CLASSES[family], encoder, dtype)
    # Then
    place = folder / "text_encoder"
    expected = CLASSES[family].from_pretrained(place, dtype=dtype, **CLASSES[family].options(place)).eval()
    assert expected.state_dict().keys() == converted.state_dict().keys()
    for name, tensor in expected.state_dict().items():
        assert torch.equal(converted.state_dict()[name], tensor), name
    reference = hidden(expected)
    assert reference.dtype == dtype
    assert torch.equal(hidden(converted), reference)
    assert torch.equal(hidden(kept), reference)
    blocks = [layer for layer in kept.modules() if isinstance(layer, GgufLinear)]
    linears = [layer for layer in expected.modules() if isinstance(layer, torch.nn.Linear)]
    assert len(blocks) == (0 if kind in ("F16", "BF16") else len(linears))


@pytest.mark.parametrize("family", CLASSES)
def test_prompts_have_the_tokens_of_the_tokenizer_in_the_folder(
    gemmas: dict[str, Path], tmp_path: Path, family: str
) -> None:
    # Given one that lists its merges, and one that does not
    folder = shutil.copytree(gemmas[family], tmp_path / "model")
    for merges in (True, False):
        # When
        tokenizer = load_tokenizer(read(gguf_encoder(folder, tmp_path / "ltx.gguf", "Q8_0", merges=merges)))
        # Then
        check_tokens(tokenizer, folder / "tokenizer")
        assert tokenizer.model_max_length == 64


def test_a_vocabulary_that_does_not_fit_the_embeddings_is_refused(tmp_path: Path) -> None:
    # Given a file without the token for padding, and one with a token more than embeddings
    for pieces, wrong in (
        ("<unk> <eos> <bos> a", "has no token '<pad>'"),
        ("<pad> <unk> <eos> <bos> <mask> a", "5, but"),
    ):
        file = vocabulary_file(tmp_path / "a.gguf", pieces.split(), [1] * len(pieces.split()))
        config = {"text_config": {"max_position_embeddings": 64, "vocab_size": 5}}
        # When / Then
        with pytest.raises(CheckpointError, match=wrong):
            load_tokenizer(TextEncoder(file, config, None, {}, {}))


@pytest.mark.parametrize("name", ["tiny", "tiny-2.5"])
def test_a_film_is_that_of_the_same_numbers_in_a_folder(models: dict[str, Path], tmp_path: Path, name: str) -> None:
    # Given
    folder = shutil.copytree(models[name], tmp_path / "model")
    encoder = gguf_encoder(folder, tmp_path / "gemma-ltx.gguf", "Q8_0")
    if name == "tiny":
        file = single_file(folder, tmp_path / "ltx-distilled.safetensors")
    else:
        file = split_files(folder, tmp_path / "comfy")
    expected = latents(Engine.load(str(folder), device="cpu"))
    # When its layers are in their blocks, which `8bit` leaves as they are
    for mode in ("auto", "8bit"):
        engine = Engine.load(str(file), device="cpu", encoder=str(encoder), text_encoder=mode)
        # Then
        layers = engine.pipeline.text_encoder.language_model.layers
        assert all(type(one) is GgufLinear for one in layers.modules() if hasattr(one, "in_features"))
        assert torch.equal(latents(engine), expected)


def latents(engine: Engine) -> torch.Tensor:
    return engine.run(REQUEST).video_latents


def test_layers_in_their_blocks_are_streamed_to_a_device(gemmas: dict[str, Path], tmp_path: Path) -> None:
    # Given
    folder = shutil.copytree(gemmas["gemma3"], tmp_path / "model")
    encoder = read(gguf_encoder(folder, tmp_path / "gemma.gguf", "Q4_K"))
    model = load_encoder(Gemma3, encoder, torch.float32, StoredWeights(float8=False))
    expected = hidden(model)
    # When
    StreamedWeights(model, torch.device("cpu"))
    # Then
    assert torch.equal(hidden(model), expected)
