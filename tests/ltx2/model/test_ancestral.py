"""The ancestral steps of the distilled LTX-2.5."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import LTXEulerAncestralRFScheduler
from diffusers.pipelines.ltx2.utils import DISTILLED_SIGMA_VALUES
from torch import Tensor

from ltx2.engine import Engine
from ltx2.model.ancestral import SEED_OFFSET, AncestralScheduler
from ltx2.sampling import Sampling
from tests.ltx2.model.denoising.test_denoiser import calls_of, encoded, request_of
from tests.ltx2.outputs import same
from tests.ltx2.test_engine import SECOND

TABLE = [  # the factors of sample, prediction and noise in each step, computed with Lightricks' ltx-core
    (0.495317, 0.006250, 0.861510),
    (0.659690, 0.008377, 0.738504),
    (0.741710, 0.009479, 0.652982),
    (0.790849, 0.010172, 0.590269),
    (0.519229, 0.077644, 0.755431),
    (0.414207, 0.237463, 0.619472),
    (0.259446, 0.506777, 0.377621),
    (0, 1, 0),
]


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def scheduler_of(seed: int) -> AncestralScheduler:
    scheduler = AncestralScheduler.seeded({}, seed)
    scheduler.set_timesteps(sigmas=DISTILLED_SIGMA_VALUES)
    scheduler.mask, scheduler.clean = torch.ones(()), torch.zeros(())
    return scheduler


def test_each_step_is_that_of_the_authors() -> None:
    # Given diffusers' scheduler of the same steps, and the authors' factors
    stock = LTXEulerAncestralRFScheduler()
    stock.set_timesteps(sigmas=[*DISTILLED_SIGMA_VALUES, 0.0])
    ours, draws, stock_draws = scheduler_of(3), *(torch.Generator().manual_seed(10_003) for _ in range(2))
    sample = stock_sample = noise(1, 6, 16, seed=1)
    for step, (of_sample, of_x0, of_noise) in enumerate(TABLE):
        # When
        velocity = noise(1, 6, 16, seed=10 + step)
        sigma = DISTILLED_SIGMA_VALUES[step]
        (found,) = ours.step(velocity, ours.timesteps[step], sample, return_dict=False)
        # Then
        fresh = torch.randn(sample.shape, generator=draws)
        expected = of_sample * sample + of_x0 * (sample - sigma * velocity) + of_noise * fresh
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        (stock_sample,) = stock.step(
            velocity, stock.timesteps[step], stock_sample, generator=stock_draws, return_dict=False
        )
        torch.testing.assert_close(found, stock_sample, rtol=0, atol=1e-5)
        sample = found


def test_picture_and_sound_draw_in_turn_and_pinned_tokens_are_clean() -> None:
    # Given schedulers of both streams, whose first tokens are pinned
    picture = scheduler_of(3)
    sound = picture.like_this()
    sound.set_timesteps(sigmas=DISTILLED_SIGMA_VALUES)
    draws = torch.Generator().manual_seed(3 + SEED_OFFSET)
    for scheduler, tokens in ((picture, 6), (sound, 4)):
        scheduler.mask, scheduler.clean = torch.ones(1, tokens, 1), noise(1, tokens, 8, seed=5)
        scheduler.mask[:, :2] = 0
    for step, (_, _, of_noise) in enumerate(TABLE[:-1]):
        for scheduler, tokens in ((picture, 6), (sound, 4)):
            # When
            zero = torch.zeros(1, tokens, 8)
            (found,) = scheduler.step(zero, scheduler.timesteps[step], zero)
            # Then
            assert torch.equal(found[:, :2], scheduler.clean[:, :2])
            fresh = torch.randn(1, tokens, 8, generator=draws)
            torch.testing.assert_close(found[:, 2:], of_noise * fresh[:, 2:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("stages", [1, 2])
def test_only_the_first_stage_renews_the_noise(engines: dict[str, Engine], stages: int) -> None:
    # Given the inputs of the model, and the noise and predictions that explain them
    engine, predictions = engines["tiny-2.5"], []
    hook = engine.pipeline.transformer.register_forward_hook(lambda _, args, result: predictions.append(result))
    # When
    try:
        with calls_of(engine) as calls:
            engine.run(request_of(Sampling(stages=stages)))
    finally:
        hook.remove()
    # Then each input follows from the one before, with new noise in the first stage and without in the second
    sigmas = [float(call["sigma"]) / 1000 for call in calls]
    draws = torch.Generator().manual_seed(3 + SEED_OFFSET)
    for step in range(len(calls) - 1):
        if step == 7:
            continue  # the second stage starts anew
        for name, velocity in zip(("hidden_states", "audio_hidden_states"), predictions[step], strict=True):
            before, after = calls[step][name], calls[step + 1][name]
            if step < 7:
                of_sample, of_x0, of_noise = TABLE[step]
                fresh = torch.randn(before.shape, generator=draws)
                expected = of_sample * before + of_x0 * (before - sigmas[step] * velocity) + of_noise * fresh
            else:
                expected = before + (sigmas[step + 1] - sigmas[step]) * velocity
            torch.testing.assert_close(after, expected, rtol=0, atol=1e-4)


def test_a_continuation_has_exactly_the_pinned_latents_at_every_step(engines: dict[str, Engine]) -> None:
    # Given
    engine = engines["tiny-2.5"]
    first = engine.run(request_of(Sampling()))
    tail = np.random.default_rng(1).integers(0, 256, (9, 64, 128, 3), np.uint8)
    state = replace(first.state, video_frames=list(tail))
    # When
    with calls_of(engine) as calls:
        second = engine.run(request_of(Sampling(), SECOND), state)
    # Then
    pinned = SECOND.pinned
    for call in calls:
        assert torch.equal(call["hidden_states"][:, :16], calls[0]["hidden_states"][:, :16])
        assert torch.equal(call["audio_hidden_states"][:, :pinned], calls[0]["audio_hidden_states"][:, :pinned])
    torch.testing.assert_close(second.video_latents[:, :, :2], encoded(engine, tail), rtol=0, atol=2e-6)
    # And the same seed gives the same bytes, whatever was rendered before, and another one does not
    engine.run(request_of(Sampling(), seed=9))
    assert same(engine.run(request_of(Sampling(), SECOND), state), second)
    assert not same(engine.run(request_of(Sampling(), SECOND, seed=4), state), second)


def test_the_request_may_say_that_the_weights_are_distilled(
    engines: dict[str, Engine], full_engines: dict[str, Engine]
) -> None:
    # Given a checkpoint with the same weights, and a scheduler that says that they are not distilled
    expected = engines["tiny-2.5"].run(request_of(Sampling()))
    # When / Then
    assert same(full_engines["tiny-2.5"].run(request_of(Sampling(distilled=True))), expected)
