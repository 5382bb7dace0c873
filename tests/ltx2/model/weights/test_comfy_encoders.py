"""Text encoders as ComfyUI has them: hidden states, tokens and films are those of the same numbers in a folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ltx2.acceleration.stored_weights import ScaledLinear, StoredWeights
from ltx2.checkpoints.components import TextEncoder
from ltx2.checkpoints.files.model import describe
from ltx2.checkpoints.reports.check import check_model
from ltx2.engine import Engine
from ltx2.errors import CheckpointError
from ltx2.model.text.streaming import StreamedWeights
from ltx2.model.weights.encoder_loading import load_encoder, load_tokenizer
from ltx2.model.weights.gemma import Gemma3
from ltx2.model.weights.stored_tensors import align
from ltx2.request import SegmentRequest
from ltx2.timeline import SegmentShape, exact, first_timing
from tests.ltx2.checkpoint_files import sparse
from tests.ltx2.checkpoints.files.test_recognition import GEMMA_3
from tests.ltx2.exported_encoders import comfy_encoder
from tests.ltx2.exported_files import single_file
from tests.ltx2.model.weights.encoder_checks import check_tokens, hidden

REQUEST = SegmentRequest("a boat", 1, 96, 64, first_timing(SegmentShape(17, exact(24))))


@pytest.fixture
def single(models: dict[str, Path], tmp_path: Path) -> Path:
    """A 2.3 in one file, in a folder of its own."""
    (tmp_path / "checkpoints").mkdir()
    return single_file(models["tiny"], tmp_path / "checkpoints" / "ltx-2.3-distilled.safetensors")


def read(single: Path, file: Path) -> TextEncoder:
    found = describe(single, file).text_encoder
    assert found is not None
    return found


@pytest.mark.parametrize("form", ["", "plain", "comfy-old", "comfy-new", "comfy-header"])
def test_hidden_states_are_those_of_the_folder(folder: Path, single: Path, tmp_path: Path, form: str) -> None:
    # Given
    file = comfy_encoder(folder, tmp_path / "gemma_3_12B_it.safetensors", form, torch.bfloat16)
    encoder = read(single, file)
    # When its float8 layers stay as they are, and when they are converted
    kept = load_encoder(Gemma3, encoder, torch.bfloat16, StoredWeights(float8=True))
    converted = load_encoder(Gemma3, encoder, torch.bfloat16)
    # Then
    place = folder / "text_encoder"
    expected = Gemma3.from_pretrained(place, dtype=torch.bfloat16, **Gemma3.options(place)).eval()
    assert {name: tensor.shape for name, tensor in converted.state_dict().items()} == {
        name: tensor.shape for name, tensor in expected.state_dict().items()
    }
    for model in (kept, converted, expected):
        align(model)
    reference = hidden(expected)
    assert torch.equal(hidden(converted), reference)
    assert torch.equal(hidden(kept), reference)
    StreamedWeights(kept, torch.device("cpu"))
    assert torch.equal(hidden(kept), reference)
    linears = sum(isinstance(layer, torch.nn.Linear) for layer in expected.modules())
    assert sum(isinstance(layer, ScaledLinear) for layer in kept.modules()) == (linears if form else 0)


def test_prompts_have_the_tokens_of_the_tokenizer_in_the_folder(folder: Path, single: Path, tmp_path: Path) -> None:
    encoder = read(single, comfy_encoder(folder, tmp_path / "gemma.safetensors"))
    check_tokens(load_tokenizer(encoder), folder / "tokenizer")


def test_a_film_is_that_of_the_same_numbers_in_the_folder(folder: Path, single: Path, tmp_path: Path) -> None:
    # Given a model in the folders of ComfyUI, with a text encoder that cannot be read next to the one that can, and one
    # of another model
    (tmp_path / "text_encoders").mkdir()
    place = comfy_encoder(folder, tmp_path / "text_encoders" / "gemma_3_12B_it_fp8_scaled.safetensors", "comfy-new")
    other = _in_fp4(place, tmp_path / "text_encoders" / "gemma_3_12B_it_fp4_mixed.safetensors")
    qwen = [name for name in GEMMA_3 if "pre_feedforward" not in name]
    sparse(tmp_path / "text_encoders" / "qwen_3_4b.safetensors", {name: GEMMA_3[name] for name in qwen})
    expected = Engine.load(str(folder), device="cpu").run(REQUEST).video_latents
    # When
    report = check_model(str(single), tmp_path)
    engine = Engine.load(str(single), device="cpu")
    # Then
    assert (report.usable, report.parts[-1].source) == (True, str(place))
    assert torch.equal(engine.run(REQUEST).video_latents, expected)
    # and without it, or where it is named, the other one is refused by name
    place.unlink()
    assert f"text_encoder: {other} has it in NVFP4" in str(check_model(str(single), tmp_path).problem)
    with pytest.raises(CheckpointError, match=f"{other} has weights in NVFP4"):
        describe(single, other)


def _in_fp4(file: Path, target: Path) -> Path:
    """The text encoder in `file` with one layer as NVFP4 has it."""
    tensors = load_file(file)
    layer = "model.layers.0.mlp.up_proj"
    tensors |= {f"{layer}.weight": torch.zeros(64, 16, dtype=torch.uint8), f"{layer}.weight_scale_2": torch.ones(())}
    save_file(tensors, target)
    return target


def test_what_shows_no_size_is_that_of_the_published_model(folder: Path, single: Path, tmp_path: Path) -> None:
    # When
    text = read(single, comfy_encoder(folder, tmp_path / "gemma.safetensors")).config["text_config"]
    # Then
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim")
    assert [text[name] for name in names] == [32, 2, 2, 1, 16]
    assert (text["rms_norm_eps"], text["sliding_window"], text["query_pre_attn_scalar"]) == (1e-6, 1024, 16)
    assert text["rope_parameters"]["full_attention"] == {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}


def test_a_file_that_lacks_what_it_needs_is_refused(folder: Path, single: Path, tmp_path: Path) -> None:
    def refusal(change: dict[str, torch.Tensor | None]) -> str:
        file = tmp_path / "changed.safetensors"
        save_file({name: tensor for name, tensor in (tensors | change).items() if tensor is not None}, file)
        with pytest.raises(CheckpointError) as error:
            read(single, file)
        return str(error.value)

    # Given
    tensors: dict[str, torch.Tensor | None] = dict(load_file(comfy_encoder(folder, tmp_path / "gemma.safetensors")))
    # When / Then
    assert "has no tokenizer of Gemma in it: put tokenizer.json" in refusal({"spiece_model": None})
    assert "lacks embed_tokens.weight of Gemma 3" in refusal({"model.embed_tokens.weight": None})
    assert "lacks layers.0.self_attn.q_norm.weight" in refusal({"model.layers.0.self_attn.q_norm.weight": None})
    assert "2 layers of width 16" in refusal({"model.embed_tokens.weight": torch.zeros(8, 16)})
    assert "is a Gemma 4 without gemma_config" in refusal({"model.layers.0.layer_scalar": torch.ones(1)})
