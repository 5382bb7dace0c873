"""The LoRA of the second stage, and whose sound is kept."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.ltx2 import LTX2LatentUpsamplePipeline, LTX2LatentUpsamplerModel
from diffusers.pipelines.ltx2.utils import STAGE_2_DISTILLED_SIGMA_VALUES
from safetensors.torch import save_file

from ltx2.checkpoints.loras.lora import Lora
from ltx2.engine import Engine
from ltx2.errors import CheckpointError, RequestError, SegmentCancelledError, UnsupportedModelError
from ltx2.model.denoising.denoiser import NEGATIVE_PROMPT
from ltx2.sampling import ADVISED, NO_GUIDANCE, Sampling, Shift, guidance_arguments
from tests.ltx2.checkpoints.loras.test_lora import factors
from tests.ltx2.model.denoising.test_denoiser import START, calls_of, close, never, request_of, stock_of
from tests.ltx2.outputs import same
from tests.ltx2.test_engine import SECOND


@pytest.fixture
def lora(engines: dict[str, Engine], tmp_path: Path) -> Lora:
    """A LoRA for every layer of `tiny`, also those of the connectors."""
    save_file(factors(engines["tiny"], 1, every=True), tmp_path / "distilled.safetensors")
    return Lora(str(tmp_path / "distilled.safetensors"), 0.5)


def two(lora: Lora | None = None, **settings: Any) -> Sampling:
    return Sampling(stages=2, steps=3, stage2_lora=lora, **settings)


def test_the_second_stage_is_that_of_a_distilled_model(full_models: dict[str, Path], lora: Lora) -> None:
    # Given the stock pipelines: one without the LoRA and guided, and one with it, on the distilled levels and unguided
    folder = str(full_models["tiny"])
    plain, fused = Engine.load(folder, device="cpu"), Engine.load(folder, loras=[lora], device="cpu")
    generator = torch.Generator().manual_seed(3)
    advised = {**guidance_arguments(ADVISED), "spatio_temporal_guidance_blocks": [1], "generator": generator}
    half, sound = stock_of(plain)(
        width=64, height=32, num_inference_steps=3, negative_prompt=NEGATIVE_PROMPT, **advised
    )
    upsampler = LTX2LatentUpsamplerModel.from_pretrained(folder, subfolder="latent_upsampler")
    upsample = LTX2LatentUpsamplePipeline(vae=plain.pipeline.vae, latent_upsampler=upsampler)
    start = upsample(latents=half, height=32, width=64, num_frames=17, output_type="latent", return_dict=False)[0]
    fused.pipeline.scheduler.register_to_config(use_dynamic_shifting=False, shift_terminal=None)
    refining = {"sigmas": STAGE_2_DISTILLED_SIGMA_VALUES, "noise_scale": START, "num_inference_steps": 3}
    expected, second = stock_of(fused)(
        latents=start, audio_latents=sound, width=128, height=64, generator=generator, **refining, **NO_GUIDANCE
    )

    # When
    with calls_of(plain) as calls:
        output = plain.run(request_of(two(lora, shift=Shift.TOKENS)))

    # Then the picture is that of both, and the sound that of the first; or of the second, if that is asked for
    assert [call["hidden_states"].shape[0] for call in calls] == [2, 1, 1] * 3 + [1] * 3
    assert close(output.video_latents, expected)
    assert close(output.audio_latents, plain.pipeline.normalize_audio(sound))
    later = plain.run(request_of(two(lora, shift=Shift.TOKENS, sound_stage=2)))
    assert torch.equal(later.video_latents, output.video_latents)
    assert close(later.audio_latents, plain.pipeline.normalize_audio(second))


@pytest.mark.usefixtures("fp8_on_cpu")
@pytest.mark.parametrize(("precision", "compiler"), [("fp32", "off"), ("fp8", "off")])
def test_a_segment_depends_on_its_loras_alone(
    full_models: dict[str, Path],
    lora: Lora,
    tmp_path: Path,
    precision: str,
    compiler: str,
) -> None:
    # Given float8 layers even in a small model, and a job with a LoRA of its own
    settings: dict[str, Any] = {"device": "cpu", "precision": precision, "compiler": compiler}
    engine = Engine.load(str(full_models["tiny"]), **settings)
    save_file(factors(engine, 2), tmp_path / "rain.safetensors") if precision == "fp32" else None
    rain = [Lora(str(tmp_path / "rain.safetensors"))] if precision == "fp32" else []
    fresh = Engine.load(str(full_models["tiny"]), loras=rain, **settings)
    expected = fresh.run(request_of(two())), fresh.run(request_of(two(lora)))
    # When jobs with and without a LoRA for the second stage follow each other, and one is cancelled in that stage
    assert engine.set_loras(rain)
    again = [engine.run(request_of(two(which)), next_prompt="gulls") for which in (lora, lora, None)]
    with pytest.raises(SegmentCancelledError):
        engine.run(request_of(two(lora)), on_step=lambda step, of: step < of)
    again.append(engine.run(request_of(two())))
    # Then each is what a newly loaded engine renders
    for output, right in zip(again, (expected[1], expected[1], expected[0], expected[0]), strict=True):
        assert same(output, right)
    assert not same(*expected)
    assert not same(engine.run(request_of(two(Lora(lora.path, 0.0)))), expected[1])


def test_the_sound_of_the_first_stage_continues_exactly(full: Engine) -> None:
    # Given a guided segment of two stages, which keeps the sound of the first
    steps: list[int] = []
    first = full.run(request_of(two()))
    with pytest.raises(SegmentCancelledError):
        full.run(request_of(two()), on_step=lambda step, of: steps.append(step) or step < 3)  # type: ignore[func-returns-value]
    assert not torch.equal(first.audio_latents, full.run(request_of(two(sound_stage=2))).audio_latents)
    # When
    second = full.run(request_of(two(), SECOND), first.state)
    # Then
    pinned = first.audio_latents[:, :, -SECOND.pinned :]
    torch.testing.assert_close(second.audio_latents[:, :, : SECOND.pinned], pinned, rtol=0, atol=5e-7)


def test_a_distilled_model_keeps_the_sound_of_the_second_stage(engine: Engine) -> None:
    default, first, second = (
        engine.run(request_of(Sampling(stages=2, sound_stage=stage))).audio_latents for stage in (None, 1, 2)
    )
    assert torch.equal(default, second)
    assert not torch.equal(first, second)


def test_a_lora_that_cannot_be_used_is_rejected_before_the_first_step(
    full_models: dict[str, Path], engines: dict[str, Engine], lora: Lora, tmp_path: Path
) -> None:
    folder = shutil.copytree(full_models["tiny"], tmp_path / "model")
    engine = Engine.load(str(folder), device="cpu")
    with pytest.raises(RequestError, match=r"^stage2_lora makes the second stage distilled, which LTX-2.3, distilled,"):
        engines["tiny"].run(request_of(Sampling(stages=2, stage2_lora=lora)), on_step=never)
    with pytest.raises(CheckpointError, match="no such LoRA: /absent"):
        engine.run(request_of(two(Lora("/absent"))), on_step=never)
    with pytest.raises(
        RequestError, match=r"^stage2_lora: LoRAs cannot be switched between stages with sequential off"
    ):
        Engine(engine.pipeline, folder).run(request_of(two(lora)), on_step=never)
    other = factors(engines["tiny"], 1)
    save_file({name: torch.ones(3, 3) for name in other}, tmp_path / "other.safetensors")
    with pytest.raises(UnsupportedModelError):
        engine.run(request_of(two(Lora(str(tmp_path / "other.safetensors")))), on_step=never)
    # and where the model's files have changed, its weights cannot be restored
    engine.run(request_of(two(lora)))
    weights = folder / "transformer/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes())
    with pytest.raises(CheckpointError, match="the files of the model have changed since it was loaded"):
        engine.run(request_of(two()), on_step=never)


def test_settings_for_two_stages_need_two() -> None:
    for settings in ({"sound_stage": 1}, {"upsampler": "owner/name"}, {"stage2_lora": Lora("owner/name")}):
        with pytest.raises(ValueError, match=f"^{next(iter(settings))} is used with two stages only"):
            Sampling(**settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sound_stage is 3; it must be 1 or 2"):
        Sampling(stages=2, sound_stage=3)
