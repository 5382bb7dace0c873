"""Rendering with two stages, guidance and a first image."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, LTX2ConditionPipeline
from diffusers.pipelines.ltx2 import LTX2LatentUpsamplePipeline, LTX2LatentUpsamplerModel
from diffusers.pipelines.ltx2.utils import (
    DEFAULT_NEGATIVE_PROMPT,
    DISTILLED_SIGMA_VALUES,
    STAGE_2_DISTILLED_SIGMA_VALUES,
)
from numpy.typing import NDArray
from torch import Tensor

from ltx2.checkpoints import random as tiny
from ltx2.engine import Engine
from ltx2.errors import CheckpointError, RequestError, SegmentCancelledError
from ltx2.media.images import recompressed
from ltx2.model.ancestral import AncestralScheduler
from ltx2.model.denoising.denoiser import shifted_sigmas
from ltx2.request import SegmentRequest
from ltx2.sampling import ADVISED, NO_GUIDANCE, OFF, Sampling, Scales, Shift, guidance_arguments
from ltx2.timeline import next_timing
from tests.ltx2.outputs import same
from tests.ltx2.test_engine import FIRST, SECOND, SHAPE

TWO = Sampling(stages=2)
QUICK = Sampling(steps=3)
START = STAGE_2_DISTILLED_SIGMA_VALUES[0]


def request_of(sampling: Sampling = TWO, timing: Any = FIRST, **settings: Any) -> SegmentRequest:
    usual: dict[str, Any] = {"prompt": "a boat", "seed": 3, "width": 128, "height": 64, "timing": timing}
    return SegmentRequest(**(usual | {"sampling": sampling} | settings))


def picture(width: int = 128, height: int = 64) -> NDArray[np.uint8]:
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 255 // height, columns * 255 // width, (rows + columns) % 256], axis=-1).astype(np.uint8)


def encoded(engine: Engine, frames: NDArray[np.uint8]) -> Tensor:
    """The VAE's latents of frames `[v, H, W, 3]`, neither resized nor recompressed."""
    pixels = torch.from_numpy(frames).permute(3, 0, 1, 2)[None] / 127.5 - 1
    with torch.inference_mode():
        latents: Tensor = engine.pipeline.vae.encode(pixels).latent_dist.mode()
    return latents


@contextmanager
def calls_of(engine: Engine) -> Iterator[list[dict[str, Any]]]:
    """Collect the keyword arguments of every call of the transformer."""
    seen: list[dict[str, Any]] = []
    record: Callable[..., None] = lambda _, args, kwargs: seen.append(kwargs)  # noqa: E731
    hook = engine.pipeline.transformer.register_forward_pre_hook(record, with_kwargs=True)
    try:
        yield seen
    finally:
        hook.remove()


def ancestral_schedulers(engine: Engine, seed: int) -> dict[str, Any]:
    """Schedulers for the stock pipeline without pinned tokens: ancestral steps of a segment with this seed."""
    picture = AncestralScheduler.seeded(engine.pipeline.scheduler.config, seed)
    schedulers = {"scheduler": picture, "audio_scheduler": picture.like_this()}
    for scheduler in schedulers.values():
        scheduler.mask, scheduler.clean = torch.ones(()), torch.zeros(())
    return schedulers


def stock_of(engine: Engine, **components: Any) -> Callable[..., Any]:
    """The stock pipeline with the same weights; its calls return video and audio latents."""
    pipeline = LTX2ConditionPipeline(**(engine.pipeline.components | components))
    pipeline.set_progress_bar_config(disable=True)
    usual = {"prompt": "a boat", "num_frames": 17, "frame_rate": 24.0, "output_type": "latent", "return_dict": False}

    def call(**settings: Any) -> Any:
        with torch.inference_mode():
            return pipeline(**(usual | settings))

    return call


def close(value: Tensor, expected: Tensor) -> bool:
    return float((value - expected).norm() / expected.norm()) < 1e-6


def check_output(engine: Engine, request: SegmentRequest, video: Tensor, audio: Tensor) -> None:
    output = engine.run(request)
    assert close(output.video_latents, video)
    assert close(output.audio_latents, engine.pipeline.normalize_audio(audio))


def test_two_stages_render_like_the_documented_stock_pipelines(engine: Engine, models: dict[str, Path]) -> None:
    # Given the stock pipelines, called as their documentation says
    name = next(name for name, version in tiny.VERSIONS.items() if version == engine.variant.version)
    upsampler = LTX2LatentUpsamplerModel.from_pretrained(models[name], subfolder="latent_upsampler")
    upsample = LTX2LatentUpsamplePipeline(vae=engine.pipeline.vae, latent_upsampler=upsampler)
    stock, generator = stock_of(engine), torch.Generator().manual_seed(3)
    unguided = {**NO_GUIDANCE, "generator": generator}
    first = stock_of(engine, **ancestral_schedulers(engine, seed=3)) if engine.variant.is_ancestral else stock
    half, audio = first(width=64, height=32, sigmas=DISTILLED_SIGMA_VALUES, num_inference_steps=8, **unguided)
    start = upsample(latents=half, height=32, width=64, num_frames=17, output_type="latent", return_dict=False)[0]
    refining = {"sigmas": STAGE_2_DISTILLED_SIGMA_VALUES, "noise_scale": START, "num_inference_steps": 3}
    expected = stock(latents=start, audio_latents=audio, width=128, height=64, **refining, **unguided)

    # When / Then the engine gives the same latents
    check_output(engine, request_of(), *expected)


def test_a_continuation_keeps_frames_and_sound_through_both_stages(engine: Engine) -> None:
    # Given the state after a segment of two stages, with a detailed tail
    first = engine.run(request_of())
    assert first.frames.shape == (17, 64, 128, 3)
    tail = np.random.default_rng(1).integers(0, 256, (9, 64, 128, 3), np.uint8)

    # When another segment continues it
    with calls_of(engine) as calls:
        second = engine.run(request_of(timing=SECOND), replace(first.state, video_frames=list(tail)))

    # Then each stage gets the tail as clean latents, at its own size
    half = np.stack([frame.reshape(32, 2, 64, 2, 3).mean(axis=(1, 3)) for frame in tail])
    for call, frames in ((calls[0], half.round().astype(np.uint8)), (calls[-1], tail)):
        latents = engine.pipeline._normalize_latents(
            encoded(engine, frames), engine.pipeline.vae.latents_mean, engine.pipeline.vae.latents_std
        )
        tokens = engine.pipeline._pack_latents(latents)
        kept = call["hidden_states"][:, : tokens.shape[1]]
        assert (kept - tokens).abs().max() < 0.01  # the mean of four pixels may be rounded either way

    # And the output begins with the tail, and its sound with the pinned latents
    pinned = first.audio_latents[:, :, -SECOND.pinned :]
    torch.testing.assert_close(second.audio_latents[:, :, : SECOND.pinned], pinned, rtol=0, atol=5e-7)
    torch.testing.assert_close(second.video_latents[:, :, :2], encoded(engine, tail), rtol=0, atol=2e-6)
    assert second.state.video_frames is not None
    assert np.array_equal(np.stack(second.state.video_frames), second.frames[-9:])
    assert (second.state.audio_conditioning_num_frames) == next_timing(SECOND).pinned


def test_two_stages_are_deterministic_and_decode_to_the_same_bytes(engine: Engine) -> None:
    output = engine.run(request_of())
    assert same(engine.run(request_of()), output)
    frames, sound = engine.decode(output.video_latents, output.audio_latents)
    assert np.array_equal(frames, output.frames)
    assert np.array_equal(sound, output.sound)
    assert not same(engine.run(request_of(Sampling())), output)


def test_steps_are_counted_across_stages_and_either_can_be_cancelled(engines: dict[str, Engine]) -> None:
    # Given a segment of two stages
    engine = engines["tiny"]
    steps: list[tuple[int, int]] = []
    with calls_of(engine) as calls:
        expected = engine.run(request_of(), on_step=lambda step, of: steps.append((step, of)))
    assert steps == [(step, 11) for step in range(1, 12)]
    assert [float(call["sigma"]) / 1000 for call in calls] == pytest.approx(
        DISTILLED_SIGMA_VALUES + STAGE_2_DISTILLED_SIGMA_VALUES
    )

    # When it is cancelled in the first stage, after it, or in the second
    for last in (3, 8, 9):
        with (
            calls_of(engine) as calls,
            pytest.raises(SegmentCancelledError, match=f"segment 0 was cancelled after step {last}"),
        ):
            engine.run(request_of(), on_step=lambda step, of, last=last: step < last)  # type: ignore[misc]
        assert len(calls) == last

    # Then the next segment is not affected
    assert same(engine.run(request_of()), expected)


@pytest.fixture
def copied(models: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the small checkpoint that a test may damage."""
    return shutil.copytree(models["tiny"], tmp_path / "model")


def never(step: int, of: int) -> bool:
    raise AssertionError(f"step {step} of {of} ran")


def test_a_checkpoint_without_an_upsampler_renders_in_one_stage(copied: Path) -> None:
    shutil.rmtree(copied / "latent_upsampler")
    engine = Engine.load(str(copied), device="cpu")
    with pytest.raises(RequestError, match=r"stages is 2, but \S+/model has no latent_upsampler: use one stage"):
        engine.run(request_of(), on_step=never)
    assert engine.run(request_of(Sampling())).frames.shape == (17, 64, 128, 3)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_blocks_per_stage": 2}, "latent_upsampler: its files lack post_upsample_res_blocks.1"),
        ({"in_channels": 32}, "cannot load"),
        ({"rational_spatial_scale": 3.0}, "cannot load"),
    ],
)
def test_an_upsampler_that_does_not_match_its_config_is_rejected(
    copied: Path, config: dict[str, Any], message: str
) -> None:
    path = copied / "latent_upsampler" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    with pytest.raises(CheckpointError, match=message):
        Engine.load(str(copied), device="cpu").run(request_of(), on_step=never)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"in_channels": 32}, "upsamples 32 channels, 2 times in space and 1 times in time; it must be 16 channels"),
        ({"spatial_upsample": False, "temporal_upsample": True}, "16 channels, 1 times in space and 2 times in time"),
        ({"rational_spatial_scale": 1.5}, "16 channels, 1.5 times in space"),
    ],
)
def test_an_upsampler_for_another_model_is_rejected(copied: Path, settings: dict[str, Any], message: str) -> None:
    model = LTX2LatentUpsamplerModel(**{"in_channels": 16, "mid_channels": 32, "num_blocks_per_stage": 1} | settings)
    model.save_pretrained(copied / "latent_upsampler")
    with pytest.raises(RequestError, match=message):
        Engine.load(str(copied), device="cpu").run(request_of(), on_step=never)


def test_a_damaged_upsampler_is_rejected(copied: Path) -> None:
    (copied / "latent_upsampler" / "diffusion_pytorch_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"/latent_upsampler/diffusion_pytorch_model.safetensors is not a safe"):
        Engine.load(str(copied), device="cpu").run(request_of(), on_step=never)


# Guidance


def test_a_full_model_is_guided_like_the_stock_pipeline(full: Engine) -> None:
    # Given the stock pipeline with the advised guidance, the authors' negative prompt and the schedule of its scheduler
    tags = "has_subtitles, has_blurbox, transition from black, transition to black, speech_ending_short, "
    advised = {**guidance_arguments(ADVISED), "spatio_temporal_guidance_blocks": [1]}
    generator = torch.Generator().manual_seed(3)
    settings: dict[str, Any] = {"width": 128, "height": 64, "num_inference_steps": 3}
    settings["negative_prompt"] = tags + DEFAULT_NEGATIVE_PROMPT
    expected = stock_of(full)(generator=generator, **settings, **advised)

    # When / Then the engine does the same, with three calls per step, the first with both prompts
    with calls_of(full) as calls:
        check_output(full, request_of(Sampling(steps=3, shift=Shift.TOKENS)), *expected)
    assert [call["hidden_states"].shape[0] for call in calls] == [2, 1, 1] * 3


def test_the_noise_levels_of_a_full_model_are_shifted_as_the_authors_command_line_does() -> None:
    # Given the scheduler of either published model
    published = {"base_shift": 0.95, "max_shift": 2.05, "base_image_seq_len": 1024, "max_image_seq_len": 4096}
    distilled = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=False, shift_terminal=None, **published)
    full = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.1, **published)
    for scheduler in (distilled, full):
        # Then the levels do not depend on the picture's size, unless that is asked for
        small, large = (shifted_sigmas(scheduler, 30, tokens, Sampling().shift) for tokens in (96, 24_576))
        assert small == large
        assert (small[0], small[15], small[-1]) == pytest.approx((1.0, 0.8699, 0.1), abs=1e-3)
        assert shifted_sigmas(scheduler, 30, 24_576, Shift.TOKENS)[15] > 0.95
    assert shifted_sigmas(distilled, 30, 96, Shift.FIXED) == shifted_sigmas(full, 30, 96, Shift.FIXED)


def test_a_request_says_what_the_configs_of_a_model_do_not(engine: Engine) -> None:
    # Given a model whose configs say that it is distilled
    steps: list[tuple[int, int]] = []
    report = lambda step, of: steps.append((step, of))  # noqa: E731
    # When a request says that it is not, and sets its noise levels, Then it is guided at these levels
    with calls_of(engine) as calls:
        engine.run(request_of(Sampling(distilled=False, sigmas=(1.0, 0.8, 0.3))), on_step=report)
    assert [round(float(call["sigma"][0])) for call in calls[::3]] == [1000, 800, 300]
    assert [call["hidden_states"].shape[0] for call in calls] == [2, 1, 1] * 3
    assert steps == [(1, 3), (2, 3), (3, 3)]


def test_a_continuation_by_a_full_model_keeps_frames_and_sound(full: Engine) -> None:
    # Given a guided segment in two stages
    first = full.run(request_of(Sampling(stages=2, steps=3)))

    # When another segment continues it
    second = full.run(request_of(Sampling(stages=2, steps=3), SECOND), first.state)

    # Then frames and sound are as exact as without guidance
    pinned = first.audio_latents[:, :, -SECOND.pinned :]
    torch.testing.assert_close(second.audio_latents[:, :, : SECOND.pinned], pinned, rtol=0, atol=5e-7)
    tail = encoded(full, first.frames[-9:])
    torch.testing.assert_close(second.video_latents[:, :, :2], tail, rtol=0, atol=2e-6)


def test_a_full_model_refines_with_its_own_schedule(full_engines: dict[str, Engine]) -> None:
    # When
    steps: list[tuple[int, int]] = []
    with calls_of(full_engines["tiny"]) as calls:
        sampling: dict[str, Any] = {"stages": 2, "steps": 6, **OFF}
        full_engines["tiny"].run(request_of(Sampling(**sampling)), on_step=lambda step, of: steps.append((step, of)))
    # Then
    sigmas = [float(call["sigma"]) / 1000 for call in calls]
    assert sigmas[0] == 1
    assert sigmas[5] == pytest.approx(0.1)
    assert sigmas[6:] == pytest.approx([START, *(sigma for sigma in sigmas[:6] if sigma < START)], abs=0.02)
    assert steps == [(step, len(sigmas)) for step in range(1, len(sigmas) + 1)]


def test_each_guidance_setting_changes_frames_and_sound(full: Engine) -> None:
    # Given a guided segment
    base = full.run(request_of(QUICK))

    # When one setting is changed
    changes: list[dict[str, Any]] = [{name: scales} for name, scales in OFF.items()]
    changes += [{"negative_prompt": "fog"}, {"negative_prompt": ""}, {"steps": 4}]
    for change in changes:
        output = full.run(request_of(Sampling(**({"steps": 3} | change))))

        # Then frames and sound are different
        assert not np.array_equal(output.frames, base.frames), change
        assert not np.array_equal(output.sound, base.sound), change


@pytest.mark.parametrize("name", ["stg", "rescale"])
def test_sound_can_be_unguided_while_video_is_guided(engines: dict[str, Engine], name: str) -> None:
    # Given a single step, in which the guidance of one stream does not reach the other
    def audio(**guidance: Scales) -> Tensor:
        scales = OFF | {"guidance": Scales(3, 3)} | guidance
        arguments = {**guidance_arguments(scales), "spatio_temporal_guidance_blocks": [1], "negative_prompt": "fog"}
        settings = {"width": 64, "height": 64, "sigmas": [1.0], "num_inference_steps": 1}
        _, latents = stock_of(engines["tiny"])(generator=torch.Generator().manual_seed(3), **settings, **arguments)
        result: Tensor = latents
        return result

    # When / Then a sound scale of 0 means 0, not the scale of the video
    unguided = audio(**{name: Scales(1, 0)})
    assert torch.equal(unguided, audio())
    assert not torch.equal(unguided, audio(**{name: Scales(1, 1)}))


def test_a_distilled_model_rejects_guidance_before_it_runs(engine: Engine) -> None:
    for sampling in (Sampling(steps=3), Sampling(stg=Scales(1, 1)), Sampling(negative_prompt="fog")):
        with pytest.raises(RequestError, match="distilled"):
            engine.run(request_of(sampling), on_step=never)


# A first image


@pytest.mark.parametrize("stages", [1, 2])
def test_a_segment_begins_with_its_image(engine: Engine, stages: int) -> None:
    # When a first segment has an image
    exact = Sampling(stages=stages, image_crf=0)
    output = engine.run(request_of(exact, image=picture()))

    # Then its first latents are the encoded image, and the rest depends on it
    torch.testing.assert_close(output.video_latents[:, :, :1], encoded(engine, picture()[None]), rtol=0, atol=2e-6)
    other = engine.run(request_of(exact, image=255 - picture()))
    assert not torch.equal(output.video_latents[:, :, 1:], other.video_latents[:, :, 1:])
    assert not np.array_equal(output.sound, other.sound)
    # And by default they are the image as the model saw pictures in its training
    usual = engine.run(request_of(Sampling(stages=stages), image=picture()))
    shown = encoded(engine, recompressed(picture(), engine.variant.image_crf)[None])
    torch.testing.assert_close(usual.video_latents[:, :, :1], shown, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 96}, "width is 96; it must be a positive multiple of 64"),
        ({"height": 32}, "height is 32; it must be a positive multiple of 64"),
        ({"image": picture(64, 64)}, r"image is uint8 \(64, 64, 3\); it must be uint8 \(64, 128, 3\)"),
        ({"image": picture().astype(np.float32)}, "image is float32"),
        ({"image": picture(), "timing": SECOND}, "segment 1 is a continuation and cannot begin with an image"),
    ],
)
def test_an_invalid_request_is_rejected(settings: dict[str, Any], message: str) -> None:
    assert SHAPE.frames == 17
    with pytest.raises(ValueError, match=message):
        request_of(**settings)
