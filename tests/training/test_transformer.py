"""Training calls the transformer with the arguments that the engine uses."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.ltx2.utils import DISTILLED_SIGMA_VALUES
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ltx2.engine import Engine
from training.films import render
from training.latents import Kind, Prompts, Recorder, Windows, draw_scenes
from training.model import Model
from training.transformer import REUSE, Denoiser, first_coords, losses, mixed, noise_levels, settled

PROMPT = "a red circle moves left over a blue background, low hum"


def model_of(engine: Engine) -> Model:
    pipeline = engine.pipeline
    return Model(**{name: getattr(pipeline, name) for name in Model.__slots__})


@pytest.fixture(scope="module")
def windows(engine: Engine) -> Windows:
    """Two continuations, the second at segment 1."""
    recorder = Recorder(model_of(engine), torch.device("cpu"))
    return recorder.record(draw_scenes(np.random.default_rng(0), 2, Kind(9)))


def arguments_of(transformer: Any, call: Callable[[], Any]) -> list[dict[str, Any]]:
    """The arguments of every transformer call in `call`, after all hooks."""
    arguments: list[dict[str, Any]] = []
    forward = transformer.forward

    def spy(*args: Any, **kwargs: Any) -> Any:
        arguments.append(kwargs)
        return forward(*args, **kwargs)

    transformer.forward = spy
    try:
        call()
    finally:
        del transformer.forward
    return arguments


def test_training_calls_the_transformer_like_the_engine(engine: Engine, windows: Windows) -> None:
    # Given the engine's calls for a continuation
    transformer = engine.pipeline.transformer
    rendered = arguments_of(transformer, lambda: render(engine, [PROMPT] * 3, seed=1))[-8:]
    timing = Kind(9).timing(2)
    # When training uses a batch with the same timing and noise level
    hidden, mask = Prompts(model_of(engine), torch.device("cpu"))([PROMPT] * 2)
    windows = replace(
        windows,
        hidden=hidden,
        mask=mask,
        pinned=torch.tensor([timing.pinned] * 2),
        offset=torch.tensor([float(timing.offset)] * 2),
    )
    denoiser, coords = Denoiser(model_of(engine)), first_coords(transformer, torch.device("cpu"))
    arguments = arguments_of(transformer, lambda: losses(denoiser, windows, coords, sigma=torch.full((2,), 0.725)))[0]
    # Then everything except the noise is the same
    step = DISTILLED_SIGMA_VALUES.index(0.725)
    for name in ("timestep", "audio_timestep", "sigma", "audio_sigma", "video_coords", "audio_coords"):
        assert torch.allclose(arguments[name][:1].float(), rendered[step][name].float(), atol=1e-3), name
    for name in ("encoder_hidden_states", "audio_encoder_hidden_states"):
        assert torch.allclose(arguments[name][:1], rendered[step][name], atol=1e-4), name
    for name in ("hidden_states", "audio_hidden_states"):
        assert arguments[name].shape[1:] == rendered[step][name].shape[1:]


def test_the_prefix_is_nearly_clean_and_has_noise_level_0(engine: Engine, windows: Windows) -> None:
    # Given
    transformer = engine.pipeline.transformer
    denoiser, coords = Denoiser(model_of(engine)), first_coords(transformer, torch.device("cpu"))
    # When
    (arguments,) = arguments_of(transformer, lambda: losses(denoiser, windows, coords, sigma=torch.ones(2)))
    # Then two latent frames of 24 tokens are nearly clean, with noise level 0, and the rest is noise
    clean = windows.prefix.flatten(2).mT
    assert (arguments["timestep"] == 0).sum(1).tolist() == [48, 48]
    assert (arguments["hidden_states"][:, :48] - clean).abs().max() < 0.3
    assert arguments["hidden_states"][:, 48:].std() == pytest.approx(1, abs=0.1)
    assert (arguments["audio_timestep"] == 0).sum(1).tolist() == windows.pinned.tolist()


def test_windows_have_the_timing_of_the_timeline() -> None:
    second = Kind(9).timing(1)
    assert (second.first_frame, second.skipped_frames, second.audio_latents, second.pinned) == (25, 9, 43, 26)
    assert Kind(None).timing(7).offset == 0
    assert [Kind(overlap).timing(1).audio_latents for overlap in (1, 9, 17)] == [51, 43, 34]


def test_windows_have_latents_and_a_prefix(engine: Engine, windows: Windows) -> None:
    assert windows.video.shape == (2, 32, 4, 4, 6)
    assert windows.audio.shape == (2, 8, 43, 16)
    assert windows.prefix.shape == (2, 32, 2, 4, 6)
    # the second half of a batch is conditioned on its own first latents
    assert torch.equal(windows.prefix[1], windows.video[1, :, :2])
    assert not torch.equal(windows.prefix[0], windows.video[0, :, :2])


@settings(max_examples=25)
@given(st.lists(st.floats(0.001, 0.999), min_size=8, max_size=8), st.integers(0, 2**31))
def test_noise_encodes_what_a_prompt_leaves_open(lots: list[float], seed: int) -> None:
    # Given
    noise = torch.randn(1, 96, 32, generator=torch.Generator().manual_seed(seed))
    # When
    tied = settled(noise, torch.tensor([lots]))
    # Then each number can be read from the mean of its channel, and nothing else has changed
    read = torch.special.ndtr(tied[0, :, :8].mean(0) * 96**0.5)
    assert torch.allclose(read, torch.tensor(lots), atol=1e-3)
    assert torch.equal(tied[..., 8:], noise[..., 8:])
    assert torch.allclose(tied - tied.mean(1, keepdim=True), noise - noise.mean(1, keepdim=True), atol=1e-5)


def test_noise_that_encodes_uniform_numbers_is_white() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4000, 96, 8, generator=generator)
    tied: Tensor = settled(noise, torch.rand(4000, 8, generator=generator))
    assert tied.mean().abs() < 0.01
    assert tied.std() == pytest.approx(1, abs=0.01)
    assert (tied.mean(1) * 96**0.5).std() == pytest.approx(1, abs=0.03)


def test_most_noise_levels_are_those_of_the_eight_steps() -> None:
    torch.manual_seed(0)
    levels = noise_levels(4000, torch.tensor(DISTILLED_SIGMA_VALUES))
    of_the_schedule = torch.isin(levels, torch.tensor(DISTILLED_SIGMA_VALUES)).float().mean()
    assert of_the_schedule == pytest.approx(0.85, abs=0.03)
    assert 0 <= levels.min() <= levels.max() <= 1


def test_batches_are_mixed_from_the_latest_recordings(windows: Windows) -> None:
    # Given recordings with different offsets
    recorded = (
        replace(
            windows, kind=Kind(None), offset=torch.full((2,), float(number)), lots=torch.full((2, 8), float(number))
        )
        for number in itertools.count()
    )
    # When
    batches = list(itertools.islice(mixed(recorded, np.random.default_rng(0), size=2, pool=3), 40))
    # Then the parts of a window stay together, old windows are dropped, and each is used more than once
    assert all(torch.equal(batch.offset, batch.lots[:, 0]) for batch in batches)
    numbers = torch.stack([batch.offset for batch in batches])
    assert numbers[-1].min() >= numbers.max() - 2
    assert len(numbers.unique()) < numbers.numel() / REUSE * 1.5
