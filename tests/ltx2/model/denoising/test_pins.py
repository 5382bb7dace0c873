"""A segment that is given its end, images at some of its frames, or all of its sound."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ltx2.engine import Engine
from ltx2.errors import RequestError
from ltx2.request import PinnedEnd, PlacedImage, SegmentOutput, SegmentRequest, VideoAfter
from ltx2.sampling import OFF, Sampling, Scales
from ltx2.timeline import SegmentShape, first_timing, next_timing
from tests.ltx2.model.denoising.test_denoiser import calls_of, encoded, picture

FIRST = first_timing(SegmentShape(25, Fraction(24)))
SECOND = next_timing(FIRST)
TOKENS = 8  # of one latent frame at 128x64
EXACT = Sampling(image_crf=0)


def request_of(sampling: Sampling = EXACT, prompt: str = "a boat", **given: object) -> SegmentRequest:
    usual: dict[str, object] = {"seed": 4, "width": 128, "height": 64, "timing": SECOND, "sampling": sampling}
    return SegmentRequest(prompt, **(usual | given))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def films(engines: dict[str, Engine]) -> dict[Engine, list[SegmentOutput]]:
    """Two segments by each engine, of which the second is rendered again."""
    films = {}
    for engine in engines.values():
        first = engine.run(request_of(timing=FIRST))
        films[engine] = [first, engine.run(request_of(), first.state)]
    return films


@pytest.fixture
def film(engine: Engine, films: dict[Engine, list[SegmentOutput]]) -> list[SegmentOutput]:
    return films[engine]


def end_of(output: SegmentOutput) -> PinnedEnd:
    return PinnedEnd(output.video_latents, output.audio_latents, output.decoding)


def tokens_of(engine: Engine, latents: Tensor) -> Tensor:
    """Latents of the VAE as the tokens that the transformer is given."""
    vae = engine.pipeline.vae
    packed: Tensor = engine.pipeline._pack_latents(
        engine.pipeline._normalize_latents(latents.float(), vae.latents_mean, vae.latents_std)
    )
    return packed


def half(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    count, height, width, _ = frames.shape
    mean = frames.reshape(count, height // 2, 2, width // 2, 2, 3).mean(axis=(2, 4))
    return np.asarray(mean.round(), np.uint8)


@pytest.mark.parametrize("stages", [1, 2])
def test_a_pinned_end_comes_back_bit_for_bit(engine: Engine, film: list[SegmentOutput], stages: int) -> None:
    # Given the end of the segment that is rendered again
    first, old = film
    end = end_of(old)
    # When it is rendered with another prompt and seed
    with calls_of(engine) as calls:
        new = engine.run(request_of(Sampling(stages=stages), "gulls", seed=9, end=end), first.state)
    # Then the last latent of the picture and the last ten of the sound are the old ones, and the rest is new
    assert torch.equal(new.video_latents[:, :, -1:], old.video_latents[:, :, -1:])
    assert torch.equal(new.audio_latents[:, :, -10:], old.audio_latents[:, :, -10:])
    assert not torch.equal(new.video_latents[:, :, 2:-1], old.video_latents[:, :, 2:-1])
    assert (new.audio_latents - old.audio_latents)[:, :, SECOND.pinned : -10].abs().amax((1, 3)).min() > 0
    # And at each step of the last stage the model is given them as clean tokens of level 0
    steps = calls if stages == 1 else calls[-3:]
    video, audio = tokens_of(engine, old.video_latents[:, :, -1:]), old.audio_latents.transpose(1, 2).flatten(2)
    for call in steps:
        torch.testing.assert_close(call["hidden_states"][:, -TOKENS:], video, rtol=0, atol=1e-6)
        torch.testing.assert_close(call["audio_hidden_states"][:, -10:], audio[:, -10:], rtol=0, atol=1e-6)
        levels, sounds = call["timestep"][0] > 0, call["audio_timestep"][0] > 0
        assert levels.nonzero().flatten().tolist() == list(range(2 * TOKENS, 3 * TOKENS))
        assert sounds.nonzero().flatten().tolist() == list(range(SECOND.pinned, SECOND.audio_latents - 10))
        assert call["audio_sigma"].item() > 0
    # And in a first stage of half size, what its frames make at that size
    if stages == 2:
        small = tokens_of(engine, encoded(engine, half(old.frames))[:, :, -1:])
        given = calls[0]["hidden_states"][:, -TOKENS // 4 :]
        assert (given - small).abs().max() < 0.02  # the mean of four pixels may be rounded either way
        assert torch.equal(given, calls[7]["hidden_states"][:, -TOKENS // 4 :])


def test_a_longer_end_and_a_picture_without_sound_can_be_pinned(engines: dict[str, Engine]) -> None:
    # Given
    engine = engines["tiny"]
    old = engine.run(request_of(timing=FIRST))
    end = replace(end_of(old), video_count=2, audio_count=0)
    # When a first segment has an image, too
    new = engine.run(request_of(timing=FIRST, seed=9, image=picture(), end=end))
    # Then
    assert torch.equal(new.video_latents[:, :, -2:], old.video_latents[:, :, -2:])
    torch.testing.assert_close(new.video_latents[:, :, :1], encoded(engine, picture()[None]), rtol=0, atol=2e-6)
    assert (new.audio_latents - old.audio_latents).abs().amax((1, 3)).min() > 0


@pytest.mark.parametrize("stages", [1, 2])
def test_the_beginning_of_a_video_is_pinned_as_its_frames_are_encoded(engines: dict[str, Engine], stages: int) -> None:
    # Given a video that follows the segment
    engine, frames = engines["tiny"], np.stack([np.roll(picture(), 8 * number, axis=1) for number in range(9)])
    sound = torch.randn(1, 8, 9, 16, generator=torch.Generator().manual_seed(1))
    request = request_of(Sampling(stages=stages), end=VideoAfter(frames, sound))
    state = engine.run(request_of(timing=FIRST)).state
    # When
    with calls_of(engine) as calls:
        new = engine.run(request, state)
    # Then the last latent is that of the video's frames but the first, and the last nine of the sound are given, too
    assert torch.equal(new.video_latents[:, :, -1:], encoded(engine, frames)[:, :, -1:])
    assert torch.equal(new.audio_latents[:, :, -9:], sound)
    small = tokens_of(engine, encoded(engine, half(frames) if stages == 2 else frames)[:, :, -1:])
    given = calls[0]["hidden_states"][:, -small.shape[1] :]
    assert (given - small).abs().max() < 0.02  # the mean of four pixels may be rounded either way
    # And no sound has to be given
    silent = engine.run(replace(request, end=VideoAfter(frames, sound[:, :, :0])), state)
    assert torch.equal(silent.video_latents[:, :, -1:], new.video_latents[:, :, -1:])
    assert not torch.equal(silent.audio_latents[:, :, -9:], sound)


def test_an_end_of_another_model_is_rejected(engines: dict[str, Engine], film: list[SegmentOutput]) -> None:
    end = replace(end_of(film[1]), video_latents=torch.zeros(1, 7, 4, 2, 4))
    with pytest.raises(RequestError, match=r"end\.video_latents has 7 channels; .*this model, 16"):
        engines["tiny"].run(request_of(end=end), film[0].state)


def test_given_sound_is_kept_and_its_stream_has_level_and_sigma_0(engine: Engine, film: list[SegmentOutput]) -> None:
    # Given sound that the model did not make, and the gate of the attention from sound to picture
    sound = torch.randn(film[1].audio_latents.shape, generator=torch.Generator().manual_seed(1))
    gate, seen = engine.pipeline.transformer.av_cross_attn_video_a2v_gate, list[Tensor]()
    watch: nn.Module = gate
    hook = watch.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    # When
    try:
        with calls_of(engine) as calls:
            output = engine.run(request_of(sound=sound, end=end_of(film[1])), film[0].state)
    finally:
        hook.remove()
    # Then
    assert torch.equal(output.audio_latents, sound)
    assert torch.equal(output.video_latents[:, :, -1:], film[1].video_latents[:, :, -1:])
    for call in calls:
        assert torch.equal(call["audio_hidden_states"], sound.transpose(1, 2).flatten(2))
        assert not call["audio_timestep"].any()
        assert not call["audio_sigma"].any()
        assert call["sigma"].all()
    assert len(seen) == len(calls)
    assert not torch.cat(seen).any()
    # And the picture depends on it
    other = engine.run(request_of(sound=-sound, end=end_of(film[1])), film[0].state)
    assert not np.array_equal(other.frames, output.frames)


def test_the_guidance_of_given_sound_is_off(full_engines: dict[str, Engine]) -> None:
    # Given a model that is not distilled, with guidance of the sound alone
    engine = full_engines["tiny"]
    sampling = Sampling(steps=2, **OFF | {"guidance": Scales(1, 5), "stg": Scales(0, 2)})  # type: ignore[arg-type]
    sound = torch.zeros(1, 8, FIRST.audio_latents, 16)
    # When
    with calls_of(engine) as calls:
        engine.run(request_of(sampling, timing=FIRST, sound=sound))
    # Then the model is called once per step, for one prompt
    assert [call["hidden_states"].shape[0] for call in calls] == [1, 1]


@pytest.mark.parametrize("stages", [1, 2])
def test_an_image_stands_at_its_exact_frame(engine: Engine, film: list[SegmentOutput], stages: int) -> None:
    # When a continuation has two images, and its end is pinned
    images = (PlacedImage(16, 255 - picture()), PlacedImage(11, picture()))
    sampling = replace(EXACT, stages=stages)
    request = request_of(sampling, images=images, end=end_of(film[1]))
    with calls_of(engine) as calls:
        output = engine.run(request, film[0].state)
    # Then each is appended as clean tokens, with the time of its frame on the axis of the sound
    for call, shrink in ((calls[0], stages), (calls[-1], 1)):
        size = TOKENS // shrink**2
        tokens, coords = call["hidden_states"][:, 4 * size :], call["video_coords"][:, 0, 4 * size :]
        shown = [image.pixels if shrink == 1 else half(image.pixels[None])[0] for image in images]
        given = torch.cat([tokens_of(engine, encoded(engine, one[None])) for one in shown], dim=1)
        assert (tokens - given).abs().max() < (1e-6 if shrink == 1 else 0.02)
        assert not call["timestep"][:, 4 * size :].any()
        frames = torch.tensor([16.0] * size + [11.0] * size)
        times = torch.stack([frames, frames + 1], dim=-1) / 24 + float(SECOND.offset)
        torch.testing.assert_close(coords[0], times, rtol=0, atol=1e-5)
    # And the segment has its usual size, and depends on them
    assert output.video_latents.shape == film[1].video_latents.shape
    assert torch.equal(output.video_latents[:, :, -1:], film[1].video_latents[:, :, -1:])
    moved = replace(request, images=(images[0], replace(images[1], frame=12)))
    assert not np.array_equal(engine.run(moved, film[0].state).frames, output.frames)


def test_an_image_is_compressed_as_in_training(engines: dict[str, Engine]) -> None:
    engine = engines["tiny"]
    images = (PlacedImage(24, picture()),)
    plain, usual = (engine.run(request_of(one, timing=FIRST, images=images)) for one in (EXACT, Sampling()))
    assert not np.array_equal(plain.frames, usual.frames)


@pytest.mark.usefixtures("fp8_on_cpu")
def test_what_is_given_is_kept_in_float8(models: dict[str, Path]) -> None:
    # Given an engine with fast blocks and float8 layers, even in a small model on a CPU
    engine = Engine.load(str(models["tiny"]), device="cpu", precision="fp8")
    old = engine.run(request_of(timing=FIRST))
    # When
    given = {"timing": FIRST, "seed": 9, "end": end_of(old), "images": (PlacedImage(11, picture()),)}
    new = engine.run(request_of(Sampling(stages=2), **given))
    # Then
    assert torch.equal(new.video_latents[:, :, -1:], old.video_latents[:, :, -1:])
    assert torch.equal(new.audio_latents[:, :, -10:], old.audio_latents[:, :, -10:])
    assert not torch.equal(new.video_latents[:, :, 1:-1], old.video_latents[:, :, 1:-1])
