from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import LTX2ConditionPipeline
from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition
from torch import Tensor, nn

from ltx2.engine import Engine
from ltx2.model.pipeline import LongtakePipeline, MaskedScheduler, Pins
from ltx2.sampling import ADVISED, NO_GUIDANCE, guidance_arguments
from tests.ltx2.rendering import SIGMAS, render

T = 18  # audio latents of 17 frames at 24 per second
GUIDED = NO_GUIDANCE | {"guidance_scale": 3.0, "audio_guidance_scale": 7.0}
# kinds of guidance that add transformer calls, alone and all together
STG = NO_GUIDANCE | {"stg_scale": 1.0, "audio_stg_scale": 1.0, "spatio_temporal_guidance_blocks": [1]}
ALL = guidance_arguments(ADVISED) | {"spatio_temporal_guidance_blocks": [1]}
EVERY_GUIDANCE = pytest.mark.parametrize(
    "guidance", [NO_GUIDANCE, GUIDED, STG, ALL], ids=["unguided", "guided", "stg", "all"]
)


def noise(*shape: int, seed: int = 5) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def prefix_of(kept: int, offset: float = 0.0, seed: int = 5) -> Pins:
    mask = torch.ones(T)
    mask[:kept] = 0
    return Pins(noise(1, 8, T, 16, seed=seed), mask, offset)


def relative_error(value: Tensor, expected: Tensor) -> float:
    return float((value - expected).norm() / expected.norm())


@contextmanager
def inputs_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the first argument of every call of `module`."""
    seen: list[Tensor] = []
    hook = module.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    try:
        yield seen
    finally:
        hook.remove()


@pytest.fixture
def pipeline(engine: Engine) -> LongtakePipeline:
    return engine.pipeline


@EVERY_GUIDANCE
def test_an_all_ones_mask_renders_like_the_stock_pipeline(
    pipeline: LongtakePipeline, guidance: dict[str, float]
) -> None:
    # Given the stock pipeline with the same weights
    stock = LTX2ConditionPipeline(**pipeline.components)
    stock.set_progress_bar_config(disable=True)
    expected = render(stock, **guidance)

    # When a prefix keeps nothing, and when there is no prefix
    masked = render(pipeline, pins=prefix_of(0), **guidance)
    plain = render(pipeline, **guidance)

    # Then both outputs are those of the stock pipeline
    for value, plain_value, right in zip(masked, plain, expected, strict=True):
        assert relative_error(value, right) < 1e-6
        assert torch.equal(plain_value, right)


@EVERY_GUIDANCE
@pytest.mark.parametrize("kept", [1, 7, T])
def test_exactly_the_kept_prefix_is_preserved(
    pipeline: LongtakePipeline, kept: int, guidance: dict[str, float]
) -> None:
    # Given a prefix of clean latents
    prefix = prefix_of(kept)

    # When a segment continues it
    _, audio = render(pipeline, pins=prefix, **guidance)

    # Then its sound begins with the kept latents, and the rest is new
    difference = (pipeline.normalize_audio(audio) - prefix.audio).abs()
    assert difference[:, :, :kept].max() < 5e-7
    assert kept == T or difference[:, :, kept:].min(dim=1).values.max() > 0.1


STAGE_2 = {"sigmas": SIGMAS[1:], "num_inference_steps": 2}


@pytest.mark.parametrize(
    ("count", "size", "index"),
    [(9, (64, 96), 0), (12, (64, 96), 0), (33, (64, 96), 0), (1, (64, 96), 0), (9, (96, 160), 0), (9, (64, 96), 1)],
    ids=["whole latents", "a partial latent", "longer than the segment", "one", "another size", "later index"],
)
def test_conditions_are_preprocessed_as_in_the_stock_pipeline(
    pipeline: LongtakePipeline, count: int, size: tuple[int, int], index: int
) -> None:
    # Given
    frames = np.random.default_rng(3).integers(0, 256, (count, *size, 3), np.uint8)
    conditions = [LTX2VideoCondition(frames=frames, index=index, strength=1.0, crf=0)]
    stock = LTX2ConditionPipeline(**pipeline.components)
    # When
    (got,), *others = pipeline.preprocess_conditions(conditions, 64, 96, 25, torch.device("cpu"))
    # Then
    (wanted,), *rest = stock.preprocess_conditions(conditions, 64, 96, 25, torch.device("cpu"))
    assert torch.equal(got, wanted)
    assert others == rest


@EVERY_GUIDANCE
def test_an_all_ones_mask_refines_latents_like_the_stock_pipeline(
    pipeline: LongtakePipeline, guidance: dict[str, Any]
) -> None:
    # Given latents to refine, denormalised as the stock pipeline expects them
    stock = LTX2ConditionPipeline(**pipeline.components)
    stock.set_progress_bar_config(disable=True)
    video, start = noise(1, 16, 3, 2, 2, seed=8), noise(1, 8, T, 16, seed=9)
    audio = pipeline.denormalize_audio(start)
    expected = render(stock, latents=video, audio_latents=audio, **STAGE_2, **guidance)

    # When a prefix keeps nothing
    prefix = replace(prefix_of(0), audio_start=start)
    masked = render(pipeline, latents=video, pins=prefix, **STAGE_2, **guidance)

    # Then the output is that of the stock pipeline
    for value, right in zip(masked, expected, strict=True):
        assert relative_error(value, right) < 1e-6


def test_only_latents_outside_the_kept_prefix_are_renoised(pipeline: LongtakePipeline) -> None:
    # Given a kept prefix of 7 latents, and start latents that are NaN there
    start = noise(1, 8, T, 16, seed=9)
    start[:, :, :7] = torch.nan
    prefix = replace(prefix_of(7), audio_start=start)

    # When they are refined from a noise level of 0.9
    with inputs_of(pipeline.transformer.audio_proj_in) as seen:
        _, audio = render(pipeline, pins=prefix, **STAGE_2)

    # Then the model gets the clean prefix, and the rest at that noise level; the prefix is preserved
    clean = prefix.audio.transpose(1, 2).flatten(2)
    rest = (seen[0] - 0.1 * start.transpose(1, 2).flatten(2))[:, 7:] / 0.9
    assert torch.equal(seen[0][:, :7], clean[:, :7])
    assert abs(float(rest.mean())) < 0.1
    assert abs(float(rest.std()) - 1) < 0.1
    assert (pipeline.normalize_audio(audio) - prefix.audio)[:, :, :7].abs().max() < 5e-7


def test_audio_statistics_are_per_channel_and_mel_bin(
    pipeline: LongtakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given 8 x 16 means and deviations, as in the published models
    mean, std = noise(128, seed=2), noise(128, seed=3).abs() + 0.5
    monkeypatch.setitem(pipeline.audio_vae._buffers, "latents_mean", mean)
    monkeypatch.setitem(pipeline.audio_vae._buffers, "latents_std", std)
    prefix = prefix_of(7)

    # When a prefix is rendered, and the result is denormalised
    _, audio = render(pipeline, pins=prefix)

    # Then each channel and mel bin is scaled by its own mean and deviation
    expected = prefix.audio * std.view(8, 1, 16) + mean.view(8, 1, 16)
    torch.testing.assert_close(audio[:, :, :7], expected[:, :, :7], rtol=0, atol=2e-6)
    torch.testing.assert_close(pipeline.denormalize_audio(prefix.audio), expected, rtol=0, atol=2e-6)
    torch.testing.assert_close(pipeline.normalize_audio(expected), prefix.audio, rtol=0, atol=2e-6)


def test_prefix_latents_that_are_not_kept_are_never_read(pipeline: LongtakePipeline) -> None:
    # Given two prefixes with the same kept latents, one of them NaN elsewhere
    prefix, other = prefix_of(7), prefix_of(7)
    other.audio[:, :, 7:] = torch.nan

    # When / Then they render the same
    for value, right in zip(render(pipeline, pins=other), render(pipeline, pins=prefix), strict=True):
        assert torch.equal(value, right)


def test_the_prefix_and_the_offset_change_video_and_audio(pipeline: LongtakePipeline) -> None:
    base = render(pipeline, pins=prefix_of(7, offset=0.3))
    for other in (prefix_of(7, offset=0.3, seed=6), prefix_of(7, offset=0.7), prefix_of(6, offset=0.3)):
        for value, before in zip(render(pipeline, pins=other), base, strict=True):
            assert relative_error(value, before) > 1e-3


@pytest.mark.parametrize("index", [0, 1], ids=["overwritten", "appended"])
def test_the_offset_moves_every_video_token_in_time_only(pipeline: LongtakePipeline, index: int) -> None:
    # Given frames that overwrite tokens at index 0, and are appended as new tokens elsewhere
    frames = (255 * noise(9, 64, 64, 3).sigmoid()).byte().numpy()
    conditions = [LTX2VideoCondition(frames=frames, index=index)]

    # When the same call is made with and without an offset
    coords = {}
    for offset in (0.0, 0.25):
        with inputs_of(pipeline.transformer.rope) as seen:
            render(pipeline, conditions=conditions, pins=prefix_of(7, offset=offset))
        coords[offset] = torch.stack(seen)

    # Then at each step all tokens, conditioned ones too, are later by the offset and at the same place
    moved = coords[0.25] - coords[0.0]
    assert len(moved) == len(SIGMAS)
    torch.testing.assert_close(moved[:, :, 0], torch.full_like(moved[:, :, 0], 0.25), rtol=0, atol=1e-6)
    assert not moved[:, :, 1:].any()


def test_each_audio_token_has_its_own_noise_level(pipeline: LongtakePipeline) -> None:
    with inputs_of(pipeline.transformer.audio_time_embed) as seen:
        render(pipeline, pins=prefix_of(7))
    for timesteps, sigma in zip(seen, SIGMAS, strict=True):
        expected = torch.tensor([0.0] * 7 + [1000 * sigma] * (T - 7))
        torch.testing.assert_close(timesteps, expected)


def test_the_model_gets_the_clean_prefix_at_every_step(pipeline: LongtakePipeline) -> None:
    prefix = prefix_of(7)
    with inputs_of(pipeline.transformer.audio_proj_in) as seen:
        render(pipeline, pins=prefix)
    clean = prefix.audio.transpose(1, 2).flatten(2)
    assert len(seen) == len(SIGMAS)
    for tokens in seen:
        assert torch.equal(tokens[:, :7], clean[:, :7])
        assert (tokens[:, 7:] - clean[:, 7:]).abs().min(dim=2).values.max() > 0


def test_a_step_blends_the_prediction_with_the_clean_latents() -> None:
    # Given tokens that are kept, half kept and renoised
    scheduler = MaskedScheduler(use_dynamic_shifting=False)
    scheduler.set_timesteps(sigmas=SIGMAS)
    scheduler.mask = torch.tensor([0.0, 0.5, 1.0])[None, :, None]
    sample, velocity, scheduler.clean = (noise(1, 3, 128, seed=seed) for seed in (1, 2, 3))

    # When two steps are taken
    scheduler.step(velocity, scheduler.timesteps[0], sample)
    (after,) = scheduler.step(velocity, scheduler.timesteps[1], sample, return_dict=False)

    # Then the second one moves towards the blend of the predicted and the clean sample
    sigma, following = SIGMAS[1:]
    blend = scheduler.mask * (sample - sigma * velocity) + (1 - scheduler.mask) * scheduler.clean
    expected = blend + (sample - blend) * following / sigma
    torch.testing.assert_close(after, expected)


def test_a_call_with_a_prefix_does_not_affect_the_next_one(pipeline: LongtakePipeline) -> None:
    # Given the output without a prefix
    expected = render(pipeline)

    def fail(*_: Any) -> dict[str, Any]:
        raise RuntimeError("stopped")

    # When one call with a prefix succeeds and the next one fails after a step
    hooks = dict(pipeline.transformer._forward_pre_hooks)
    render(pipeline, pins=prefix_of(7, offset=0.5))
    with pytest.raises(RuntimeError, match="stopped"):
        render(pipeline, pins=prefix_of(7, offset=0.5), callback_on_step_end=fail)

    # Then a call without a prefix gives the same output
    assert all(torch.equal(value, right) for value, right in zip(render(pipeline), expected, strict=True))
    assert pipeline.audio_scheduler is None
    assert dict(pipeline.transformer._forward_pre_hooks) == hooks
