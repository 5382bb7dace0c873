"""Models in files, LoRAs of a stage and the diffusion decoder on a CUDA device: `pytest -m gpu` with this file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ltx2.acceleration import fp8, stored_weights
from ltx2.acceleration.fp8 import Float8Linear
from ltx2.acceleration.stored_weights import GgufLinear
from ltx2.checkpoints.loras.lora import Lora
from ltx2.engine import Engine
from ltx2.request import SegmentOutput, SegmentRequest
from ltx2.sampling import Decoder, Sampling
from ltx2.timeline import SegmentShape, exact, first_timing, next_timing
from tests.ltx2.checkpoints.loras.test_lora import factors
from tests.ltx2.exported_files import fp8_file, gguf_file, parts_around, with_weights
from tests.ltx2.outputs import same

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("default"),  # warnings of the compiler
]
FIRST = first_timing(SegmentShape(25, exact(24)))
QUANTIZED = 2 * 28
"""Layers of `tiny` that files in fp8 or GGUF have quantized; those of the picture are fewer."""


@pytest.fixture(autouse=True)
def _small_layers_are_kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep float8 also in layers as small as those of `tiny`."""
    monkeypatch.setattr(fp8, "SMALLEST_SIZE", 16)
    monkeypatch.setattr(stored_weights, "SMALLEST_SIZE", 16)
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def chain(engine: Engine, sampling: Sampling | None = None) -> tuple[SegmentOutput, SegmentOutput]:
    """Two segments, the second continuing the first."""
    plan = sampling or Sampling()
    first = engine.run(SegmentRequest("a boat leaves", 7, 128, 64, FIRST, plan))
    return first, engine.run(SegmentRequest("gulls follow", 8, 128, 64, next_timing(FIRST), plan), first.state)


def distance(one: SegmentOutput, two: SegmentOutput) -> float:
    """The difference of two segments' pictures, as a part of what they are."""
    first, second = one.video_latents.float(), two.video_latents.float()
    return float((first - second).norm() / second.norm())


@pytest.mark.parametrize("form", ["plain", "authors", "comfy-old", "comfy-new", "comfy-header"])
def test_fp8_is_kept_and_gives_the_numbers_that_it_stores(models: dict[str, Path], tmp_path: Path, form: str) -> None:
    # Given a file in fp8, and a folder with the numbers that it stores
    file = tmp_path / "fp8-distilled.safetensors"
    numbers = fp8_file(models["tiny"], file, form)
    folder = with_weights(models["tiny"], tmp_path / "numbers", numbers)
    exact_ones = chain(Engine.load(str(folder), device="cuda", precision="fp32", compiler="off"))
    # When
    kept = Engine.load(str(file), device="cuda", encoder=str(models["tiny"]))
    folded = Engine.load(str(file), device="cuda", precision="fp32", compiler="off", encoder=str(models["tiny"]))
    # Then layers of the picture stay in float8, and other precisions are folded
    assert isinstance(kept.pipeline.transformer.transformer_blocks[0].attn1.to_q, Float8Linear)
    assert not any(isinstance(layer, Float8Linear) for layer in folded.pipeline.transformer.modules())
    # and both render what the folder renders, the same each time
    found = chain(kept)
    print(form, "kept off by", distance(found[1], exact_ones[1]))
    assert 0 < distance(found[1], exact_ones[1]) < 0.15
    assert same(chain(kept)[1], found[1])
    assert distance(chain(folded)[1], exact_ones[1]) < 1e-4


@pytest.mark.parametrize("offload", ["none", "model", "sequential"])
@pytest.mark.parametrize("kind", ["Q8_0", "Q6_K", "Q4_K"])
def test_gguf_stays_in_its_blocks(models: dict[str, Path], tmp_path: Path, kind: str, offload: str) -> None:
    # Given a GGUF file, and a folder with the numbers that it stores
    file = tmp_path / "ltx-distilled.gguf"
    numbers = gguf_file(models["tiny"], file, kind)
    parts_around(models["tiny"], tmp_path)
    folder = with_weights(models["tiny"], tmp_path / "numbers", numbers)
    settings = {"device": "cuda", "precision": "fp32", "offload": offload}
    exact_ones = chain(Engine.load(str(folder), compiler="off", **settings))
    # When
    engine = Engine.load(str(file), encoder=str(models["tiny"]), **settings)
    # Then
    layers = [one for one in engine.pipeline.transformer.modules() if isinstance(one, GgufLinear)]
    assert len(layers) == QUANTIZED
    found = chain(engine)
    print(kind, offload, "off by", distance(found[1], exact_ones[1]))
    assert distance(found[1], exact_ones[1]) < 1e-3
    assert same(chain(engine)[1], found[1])


@pytest.mark.parametrize("precision", ["fp32", "fp8"])
def test_the_lora_of_a_stage_leaves_no_trace(full_models: dict[str, Path], tmp_path: Path, precision: str) -> None:
    # Given a LoRA for every layer
    plain = Engine.load(str(full_models["tiny"]), device="cpu")
    save_file(factors(plain, 1, every=True), tmp_path / "distilled.safetensors")
    engine = Engine.load(str(full_models["tiny"]), device="cuda", precision=precision)
    without = Sampling(stages=2, steps=3)
    with_lora = Sampling(stages=2, steps=3, stage2_lora=Lora(str(tmp_path / "distilled.safetensors"), 0.5))
    before = chain(engine, without)
    # When
    one, two = chain(engine, with_lora), chain(engine, with_lora)
    # Then
    assert same(one[1], two[1])
    assert distance(one[0], before[0]) > 0.01
    assert same(chain(engine, without)[1], before[1])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_diffusion_decoder_gives_the_same_frames_again(models: dict[str, Path], precision: str) -> None:
    # Given
    engine = Engine.load(str(models["tiny-2.5"]), device="cuda", precision=precision)
    # When
    first, second = chain(engine, Sampling(decoder=Decoder.DIFFUSION))
    # Then
    frames, _ = engine.decode(second.video_latents, second.audio_latents, second.decoding)
    assert (frames == second.frames).all()
    # and those of the CPU, within rounding; with random weights, bf16 rounds to other pictures
    cpu = Engine.load(str(models["tiny-2.5"]), device="cpu", precision="fp32")
    expected, _ = cpu.decode(first.video_latents.float(), first.audio_latents.float(), first.decoding)
    assert precision == "bf16" or abs(first.frames.astype(int) - expected).max() <= 1
