"""Files in fp8 and GGUF: their weights are exactly the numbers that they store, kept as stored where possible."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ltx2.acceleration.fp8 import Float8Linear
from ltx2.acceleration.stored_weights import GgufLinear, StoredWeights
from ltx2.checkpoints.loras.lora import Lora
from ltx2.checkpoints.resolve import resolve_model
from ltx2.engine import Engine
from ltx2.errors import CheckpointError, UnsupportedModelError
from ltx2.model.weights.loading import load_pipeline
from ltx2.request import SegmentRequest
from ltx2.timeline import SegmentShape, exact, first_timing
from tests.ltx2.exported_files import (
    Tensors,
    fp8_file,
    fp8_tensors,
    gguf_file,
    parts_around,
    single_file,
    with_weights,
)

REQUEST = SegmentRequest("a boat", 1, 96, 64, first_timing(SegmentShape(17, exact(24))))
LAYER = "model.diffusion_model.transformer_blocks.0.attn1.to_q"


def latents(engine: Engine) -> Tensor:
    return engine.run(REQUEST).video_latents.float()


@pytest.mark.parametrize("form", ["plain", "e5m2", "authors", "comfy-old", "comfy-new", "comfy-header"])
def test_fp8_is_folded_to_the_numbers_that_it_stores(models: dict[str, Path], tmp_path: Path, form: str) -> None:
    # Given
    file = tmp_path / "fp8-distilled.safetensors"
    numbers = fp8_file(models["tiny"], file, form)
    assert len(numbers) == 2 * 28
    # When
    source = resolve_model(str(file), tmp_path, str(models["tiny"]))
    loaded = load_pipeline(source, torch.float32, StoredWeights(float8=False)).transformer.state_dict()
    # Then
    expected = with_weights(models["tiny"], tmp_path / "numbers", numbers)
    theirs = load_pipeline(expected, torch.float32).transformer.state_dict()
    assert loaded.keys() == theirs.keys()
    assert all(torch.equal(loaded[name], theirs[name]) for name in theirs)


@pytest.mark.usefixtures("fp8_on_cpu")
def test_fp8_stays_as_it_is_stored_where_the_device_has_it(models: dict[str, Path], tmp_path: Path) -> None:
    # Given
    file = tmp_path / "fp8-distilled.safetensors"
    numbers = fp8_file(models["tiny"], file, "authors")
    # When
    engine = Engine.load(str(file), device="cpu", precision="fp8", encoder=str(models["tiny"]))
    # Then these layers have the file's own bytes, and the sound's are folded
    block = engine.pipeline.transformer.transformer_blocks[0]
    assert isinstance(block.attn1.to_q, Float8Linear)
    kept = block.attn1.to_q
    assert torch.equal(kept.weight.float() * kept.weight_scale.t(), numbers[f"{LAYER}.weight"])
    assert type(block.audio_attn1.to_q) is nn.Linear
    # and the result differs from the folder's by the rounding of inputs
    folder = with_weights(models["tiny"], tmp_path / "numbers", numbers)
    exact_latents = latents(Engine.load(str(folder), device="cpu", compiler="off"))
    assert torch.allclose(latents(engine), exact_latents, atol=0.15)
    assert not torch.equal(latents(engine), exact_latents)


@pytest.mark.usefixtures("fp8_on_cpu")
def test_e5m2_is_converted_to_what_products_are_computed_in(models: dict[str, Path], tmp_path: Path) -> None:
    # Given
    file = tmp_path / "e5m2-distilled.safetensors"
    numbers = fp8_file(models["tiny"], file, "e5m2")
    # When
    engine = Engine.load(str(file), device="cpu", precision="fp8", encoder=str(models["tiny"]))
    # Then
    layer = engine.pipeline.transformer.transformer_blocks[0].attn1.to_q
    assert layer.weight.dtype == torch.float8_e4m3fn
    assert torch.allclose(layer.weight.float() * layer.weight_scale.t(), numbers[f"{LAYER}.weight"], atol=0.02)


@pytest.mark.parametrize("kind", ["Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q4_0"])
def test_gguf_stays_in_its_blocks(models: dict[str, Path], tmp_path: Path, kind: str) -> None:
    # Given
    file = tmp_path / "ltx-distilled.gguf"
    numbers = gguf_file(models["tiny"], file, kind)
    parts_around(models["tiny"], tmp_path)
    # When
    engine = Engine.load(str(file), device="cpu", encoder=str(models["tiny"]))
    # Then
    blocks = [one for one in engine.pipeline.transformer.modules() if isinstance(one, GgufLinear)]
    assert len(blocks) == len(numbers) == 2 * 28
    stored = sum(one.blocks.numel() for one in blocks)
    assert stored <= sum(tensor.numel() for tensor in numbers.values()) * 34 // 32
    # and it renders the bytes of a folder with these numbers
    folder = with_weights(models["tiny"], tmp_path / "numbers", numbers)
    assert torch.equal(latents(engine), latents(Engine.load(str(folder), device="cpu")))


def test_gguf_blocks_run_in_compiled_and_fast_blocks(models: dict[str, Path], tmp_path: Path) -> None:
    # Given
    file = tmp_path / "ltx-distilled.gguf"
    gguf_file(models["tiny"], file, "Q6_K")
    parts_around(models["tiny"], tmp_path)
    # When
    plain, compiled = (
        latents(Engine.load(str(file), device="cpu", compiler=compiler, encoder=str(models["tiny"])))
        for compiler in ("off", "eager")
    )
    # Then
    assert torch.allclose(plain, compiled, atol=1e-4)


def test_forms_that_cannot_be_read_are_named(models: dict[str, Path], tmp_path: Path) -> None:
    def refusal(**tensors: Tensor | None) -> str:
        def change(found: Tensors) -> Tensors:
            layers, _, _ = fp8_tensors(found, "authors")
            for name, tensor in tensors.items():
                if tensor is None:
                    del layers[f"{LAYER}.{name}"]
                else:
                    layers[f"{LAYER}.{name}"] = tensor
            return layers

        file = single_file(models["tiny"], tmp_path / "a.safetensors", change)
        with pytest.raises(CheckpointError) as error:
            resolve_model(str(file), tmp_path, str(models["tiny"]))
        return str(error.value)

    def form(name: str) -> Tensor:
        return torch.frombuffer(bytearray(b'{"format": "%s"}' % name.encode()), dtype=torch.uint8)

    # When / Then
    assert "has weights in NVFP4: longtake reads bf16, fp8 and GGUF" in refusal(weight_scale_2=torch.ones(()))
    assert "has weights in int8_convrot, whose weights are rotated" in refusal(comfy_quant=form("int8_convrot"))
    assert "has weights in mxfp8" in refusal(comfy_quant=form("mxfp8"))
    assert "has weights in bitsandbytes" in refusal(**{"weight.quant_state.bitsandbytes__nf4": torch.ones(9)})
    assert f"stores {LAYER}.weight as U8" in refusal(weight=torch.zeros(64, 32, dtype=torch.uint8))
    assert "has weights in int8" in refusal(weight=torch.zeros(64, 64, dtype=torch.int8))
    assert "cannot be read" in refusal(comfy_quant=form("")[:5])
    assert "has no scale for" in refusal(weight_scale=None)
    assert "has scales [2, 2] for" in refusal(weight_scale=torch.ones(2, 2))
    assert f"has float8 weights with {LAYER}.weight_scale_inv" in refusal(weight_scale_inv=torch.ones(()))
    for text in (b"[]", b"{}", b'{"format": ["mxfp8"]}', b"\xff"):
        assert "what says how its weights are quantized cannot be read" in refusal(
            comfy_quant=torch.frombuffer(bytearray(text), dtype=torch.uint8)
        )


def test_lora_on_gguf_is_refused_by_name(models: dict[str, Path], tmp_path: Path) -> None:
    # Given
    file = tmp_path / "files" / "ltx-distilled.gguf"
    file.parent.mkdir()
    gguf_file(models["tiny"], file, "Q8_0")
    parts_around(models["tiny"], file.parent)
    lora = tmp_path / "lora.safetensors"
    name = "transformer_blocks.0.attn1.to_q"
    save_file({f"{name}.lora_A.weight": torch.ones(1, 64), f"{name}.lora_B.weight": torch.ones(64, 1)}, lora)
    # When / Then
    with pytest.raises(UnsupportedModelError, match=r"transformer\.transformer_blocks\.0\.attn1\.to_q.* GGUF"):
        Engine.load(str(file), device="cpu", loras=[Lora(str(lora))], encoder=str(models["tiny"]))


@pytest.mark.usefixtures("fp8_on_cpu")
@pytest.mark.parametrize("precision", ["fp32", "fp8"])
def test_loras_are_fused_into_fp8_and_taken_out_again(models: dict[str, Path], tmp_path: Path, precision: str) -> None:
    # Given
    file = tmp_path / "files" / "fp8-distilled.safetensors"
    file.parent.mkdir()
    numbers = fp8_file(models["tiny"], file, "authors")
    lora = tmp_path / "lora.safetensors"
    name = "transformer_blocks.0.attn1.to_q"
    save_file({f"{name}.lora_A.weight": torch.ones(1, 64), f"{name}.lora_B.weight": torch.ones(64, 1)}, lora)
    engine = Engine.load(str(file), device="cpu", precision=precision, encoder=str(models["tiny"]), compiler="off")
    plain = latents(engine)
    # When
    assert engine.set_loras([Lora(str(lora), 0.5)])
    # Then the layer is the file's plus the change, rounded to float8 where it is kept
    layer = engine.pipeline.transformer.transformer_blocks[0].attn1.to_q
    expected = numbers[f"{LAYER}.weight"] + 0.5
    found = layer.weight if precision == "fp32" else layer.weight.float() * layer.weight_scale.t()
    assert torch.allclose(found, expected, rtol=0.07 if precision == "fp8" else 1e-6)
    assert not torch.equal(latents(engine), plain)
    # and without it, an engine that never had it
    assert engine.set_loras([])
    assert torch.equal(latents(engine), plain)
