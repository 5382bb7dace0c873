"""Training calls the transformer with the arguments that the engine uses."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition
from diffusers.pipelines.ltx2.utils import DISTILLED_SIGMA_VALUES
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ltx2.engine import Engine
from ltx2.model.denoising.conditioning import Conditioning
from ltx2.model.pipeline import Pins
from ltx2.request import SegmentRequest
from training.films import render
from training.latents import Kind, Prompts, Recorder, Windows, draw_scenes
from training.model import Model
from training.patterns import Part
from training.transformer import REUSE, Denoiser, first_coords, losses, mixed, noise_levels, settled, tokens_of

PROMPT = "a red circle moves left over a blue background, low hum"


def model_of(engine: Engine) -> Model:
    pipeline = engine.pipeline
    return Model(**{name: getattr(pipeline, name) for name in Model.__slots__})


NOTHING = (Part.NOTHING, Part.NOTHING)


def record(engine: Engine, kind: Kind, parts: tuple[Part, Part] = NOTHING, seed: int = 0) -> Windows:
    """Two windows of which these parts of picture and sound are given."""
    recorder = Recorder(model_of(engine), torch.device("cpu"))
    return recorder.record(draw_scenes(np.random.default_rng(seed), 2, kind, parts))


@pytest.fixture(scope="module")
def windows(engine: Engine) -> Windows:
    """Two continuations, the second at segment 1."""
    return record(engine, Kind(9))


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


def training_arguments(engine: Engine, windows: Windows, sigma: float = 0.725) -> dict[str, Any]:
    """The arguments of the transformer in a training step at one noise level."""
    denoiser, coords = Denoiser(model_of(engine)), first_coords(engine.pipeline.transformer, torch.device("cpu"))
    levels = torch.full((len(windows.video),), sigma)
    (arguments,) = arguments_of(denoiser.transformer, lambda: losses(denoiser, windows, coords, sigma=levels))
    return arguments


@dataclass(frozen=True)
class Edit:
    """A way to render a segment that has more given than its beginning, and the parts of such a training window."""

    parts: tuple[Part, Part] = NOTHING
    overlap: int | None = 9
    still: bool = False


EDITS = {
    "a continuation": Edit(),
    "a first segment": Edit(overlap=None),
    "an end": Edit((Part.END, Part.END)),
    "an end of a first segment": Edit((Part.END, Part.END), overlap=None),
    "a middle": Edit((Part.MIDDLE, Part.NOTHING)),
    "all sound": Edit((Part.NOTHING, Part.ALL)),
    "all sound of a first segment": Edit((Part.NOTHING, Part.ALL), overlap=None),
    "a picture for which sound is rendered": Edit((Part.ALL, Part.NOTHING)),
    "a still": Edit(still=True),
    "a still in a first segment, and its sound": Edit((Part.NOTHING, Part.ALL), overlap=None, still=True),
}


def rendered_arguments(engine: Engine, edit: Edit, windows: Windows, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The arguments of the transformer in the first step when the engine renders the first of `windows`.

    Latents that its masks give are pinned, in the picture where the pipeline overwrites those of conditioning frames.
    """
    pipeline, denoiser = engine.pipeline, engine._denoiser
    given, clean = (windows.picture_mask[0] == 0).repeat_interleave(24), windows.video[:1].flatten(2).mT
    stock = pipeline.apply_first_frame_conditioning

    def pin(latents: Tensor, conditioning_mask: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
        latents, conditioning_mask, kept = stock(latents, conditioning_mask, *args, **kwargs)
        latents[:, given], kept[:, given], conditioning_mask[:, given] = clean[:, given], clean[:, given], 1
        return latents, conditioning_mask, kept

    pins = Pins(
        windows.audio[:1],
        windows.sound_mask[0],
        float(windows.offset[0]),
        sound_is_given=edit.parts[1] == Part.ALL,
        image_frames=tuple(windows.places[0].tolist()),
    )
    blank = LTX2VideoCondition(frames=np.zeros((1, 128, 192, 3), np.uint8), index=1, strength=1.0, crf=0)
    monkeypatch.setattr(pipeline, "apply_first_frame_conditioning", pin, raising=False)
    monkeypatch.setattr(denoiser, "_pins", lambda *_: pins, raising=False)
    monkeypatch.setattr("ltx2.model.denoising.denoiser._conditions", lambda *_, **__: [blank] if edit.still else [])
    request = SegmentRequest(PROMPT, 0, 192, 128, windows.kind.timing(1))
    plan = denoiser.plan(request.sampling)
    (arguments,) = arguments_of(
        pipeline.transformer, lambda: denoiser.denoise(request, plan, Conditioning(), first_steps=True)
    )
    return arguments


@pytest.mark.parametrize("name", EDITS)
def test_training_calls_the_transformer_like_the_engine(
    engine: Engine, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a window for training, and the engine's first call with the same masks, timing, still and noise level
    edit = EDITS[name]
    windows = record(engine, Kind(edit.overlap, int(edit.still)), edit.parts, seed=5)
    hidden, mask = Prompts(model_of(engine), torch.device("cpu"))([PROMPT] * 2)
    windows = replace(windows, hidden=hidden, mask=mask)
    rendered = rendered_arguments(engine, edit, windows, monkeypatch)
    # When
    arguments = training_arguments(engine, windows, sigma=DISTILLED_SIGMA_VALUES[0])
    # Then everything except the noise is the same
    for key in ("timestep", "audio_timestep", "video_coords", "audio_coords"):
        assert torch.allclose(arguments[key][:1].float(), rendered[key].float(), atol=1e-3), key
    for key in ("encoder_hidden_states", "audio_encoder_hidden_states"):
        assert torch.allclose(arguments[key][:1], rendered[key], atol=1e-4), key
    for key in ("hidden_states", "audio_hidden_states"):
        assert arguments[key].shape[1:] == rendered[key].shape[1:]
    # And the sigma of a stream is 0 if all of it is given, as the model's authors have it; the engine gives no pictures
    picture, sound = (part == Part.ALL for part in edit.parts)
    assert rendered["audio_sigma"].item() == (0 if sound else pytest.approx(1000))
    for key, known in (("sigma", not picture), ("audio_sigma", True)):
        assert arguments[key][0].item() == pytest.approx(rendered[key].item() if known else 0)


def test_a_continuation_in_training_is_that_of_a_film(engine: Engine, windows: Windows) -> None:
    # Given
    transformer = engine.pipeline.transformer
    step = DISTILLED_SIGMA_VALUES.index(0.725)
    rendered = arguments_of(transformer, lambda: render(engine, [PROMPT] * 3, seed=1))[-8:][step]
    timing = Kind(9).timing(2)
    # When
    sound_mask = (torch.arange(timing.audio_latents) >= timing.pinned).float()
    arguments = training_arguments(
        engine, replace(windows, sound_mask=sound_mask.expand(2, -1), offset=torch.full((2,), float(timing.offset)))
    )
    # Then
    for name in ("timestep", "audio_timestep", "sigma", "audio_sigma", "video_coords", "audio_coords"):
        assert torch.allclose(arguments[name][:1].float(), rendered[name].float(), atol=1e-3), name


def test_what_is_given_is_nearly_clean_and_has_noise_level_0(engine: Engine, windows: Windows) -> None:
    # When
    arguments = training_arguments(engine, windows, sigma=1.0)
    # Then two latent frames of 24 tokens are nearly clean, with noise level 0, and the rest is noise
    clean = windows.prefix.flatten(2).mT
    assert (arguments["timestep"] == 0).sum(1).tolist() == [48, 48]
    assert (arguments["hidden_states"][:, :48] - clean).abs().max() < 0.3
    assert arguments["hidden_states"][:, 48:].std() == pytest.approx(1, abs=0.1)
    assert (arguments["audio_timestep"] == 0).sum(1).tolist() == (windows.sound_mask == 0).sum(1).tolist()


def test_an_end_a_middle_and_a_still_are_nearly_clean(engine: Engine) -> None:
    for kind, parts in (
        (Kind(9), (Part.END, Part.END)),
        (Kind(None), (Part.MIDDLE, Part.NOTHING)),
        (Kind(9, 2), NOTHING),
    ):
        # Given
        windows = record(engine, kind, parts)
        tokens = tokens_of(windows, first_coords(engine.pipeline.transformer, torch.device("cpu")))
        # When
        arguments = training_arguments(engine, windows, sigma=1.0)
        # Then
        given = tokens.video_mask == 0
        assert given.sum(1).tolist() == [24 * (4 - int(mask.sum()) + kind.stills) for mask in windows.picture_mask]
        assert torch.equal(arguments["timestep"] == 0, given)
        assert (arguments["hidden_states"] - tokens.video)[given].abs().max() < 0.3
        assert torch.equal(arguments["audio_timestep"] == 0, windows.sound_mask == 0)


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
    tied = settled(noise, torch.tensor([lots]), torch.ones(1, 8, dtype=torch.bool), torch.ones(1, 96))
    # Then each number can be read from the mean of its channel, and nothing else has changed
    read = torch.special.ndtr(tied[0, :, :8].mean(0) * 96**0.5)
    assert torch.allclose(read, torch.tensor(lots), atol=1e-3)
    assert torch.equal(tied[..., 8:], noise[..., 8:])
    assert torch.allclose(tied - tied.mean(1, keepdim=True), noise - noise.mean(1, keepdim=True), atol=1e-5)


def test_noise_encodes_nothing_that_is_given_and_only_in_tokens_that_are_rendered() -> None:
    # Given
    noise, lots = torch.randn(1, 96, 32, generator=torch.Generator().manual_seed(0)), torch.full((1, 8), 0.9)
    tied, mask = torch.arange(8)[None] == 1, (torch.arange(96) >= 24).float()[None]
    # When
    moved = settled(noise, lots, tied, mask)
    # Then
    read = torch.special.ndtr(moved[0, 24:, 1].mean() * 72**0.5)
    assert read.item() == pytest.approx(0.9, abs=1e-3)
    assert torch.equal(moved[:, :24], noise[:, :24])
    assert torch.equal(moved[..., 2:], noise[..., 2:])


def test_noise_that_encodes_uniform_numbers_is_white() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4000, 96, 8, generator=generator)
    lots, all_of_them = torch.rand(4000, 8, generator=generator), torch.ones(4000, 8, dtype=torch.bool)
    tied: Tensor = settled(noise, lots, all_of_them, torch.ones(4000, 96))
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
