"""What decodes pictures, and the noise that it is given."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import LTX2VideoDiffusionDecodePipeline, LTX2VideoDiffusionDecoderModel

from ltx2.checkpoints.diffusion_decoder import smallest_picture
from ltx2.engine import Engine
from ltx2.errors import CheckpointError, RequestError
from ltx2.model.codecs.neighborhood import NeighborhoodProcessor
from ltx2.model.codecs.picture_decoder import SEED_OFFSET
from ltx2.request import Decoding
from ltx2.sampling import Decoder, Sampling
from tests.ltx2.checkpoint_files import edit
from tests.ltx2.model.denoising.test_denoiser import never, request_of
from tests.ltx2.outputs import same
from tests.ltx2.test_engine import SECOND

DIFFUSION = Sampling(decoder=Decoder.DIFFUSION)


@pytest.fixture(scope="module")
def noisy(noisy_model: Path) -> Engine:
    return Engine.load(str(noisy_model), device="cpu")


def test_a_vae_with_timestep_conditioning_is_given_noise_of_the_segment(noisy: Engine) -> None:
    # Given
    output = noisy.run(request_of(Sampling()))
    assert output.decoding == Decoding(Decoder.CONVOLUTIONAL, 3 + SEED_OFFSET)
    # When its normalised latents are mixed with noise, and decoded, as the model's authors do
    vae, pipeline = noisy.pipeline.vae, noisy.pipeline
    normal = pipeline._normalize_latents(output.video_latents, vae.latents_mean, vae.latents_std)
    noise = torch.randn(normal.shape, generator=torch.Generator().manual_seed(3 + SEED_OFFSET))
    mixed = pipeline._denormalize_latents(0.975 * normal + 0.025 * noise, vae.latents_mean, vae.latents_std)
    with torch.inference_mode():
        pixels = vae.decode(mixed, torch.tensor([0.05])).sample[0]
    expected = ((pixels + 1) * 127.5).round().clamp(0, 255).permute(1, 2, 3, 0).numpy()
    # Then the frames are the same
    assert np.abs(output.frames - expected).max() <= 1


@pytest.mark.parametrize("kind", ["noisy", "diffusion"])
def test_the_same_latents_decode_to_the_same_frames(noisy: Engine, engines: dict[str, Engine], kind: str) -> None:
    # Given a segment whose decoder is given noise
    engine, sampling = (noisy, Sampling()) if kind == "noisy" else (engines["tiny-2.5"], DIFFUSION)
    first = engine.run(request_of(sampling))
    # Then the same request, and its latents with what the output says of its decoding, give the same frames
    assert same(engine.run(request_of(sampling)), first)
    frames, sound = engine.decode(first.video_latents, first.audio_latents, first.decoding)
    assert np.array_equal(frames, first.frames)
    assert np.array_equal(sound, first.sound)
    # and these are the frames that the next segment continues
    assert first.state.video_frames is not None
    assert np.array_equal(np.stack(first.state.video_frames), first.frames[-9:])
    second = engine.run(request_of(sampling, SECOND, seed=4), first.state)
    assert second.decoding.noise_seed == 4 + SEED_OFFSET
    # other noise gives other frames, and no seed is an error
    other = engine.decode(first.video_latents, first.audio_latents, Decoding(first.decoding.decoder, 1))[0]
    assert not np.array_equal(other, frames)
    with pytest.raises(RequestError, match="the seed of the noise is not known"):
        engine.decode(first.video_latents, first.audio_latents, Decoding(first.decoding.decoder))
    # the largest seed of a segment has noise, too
    assert engine.run(request_of(sampling, seed=2**63 - 1)).decoding.noise_seed == SEED_OFFSET - 1


def test_the_diffusion_decoder_decodes_as_the_stock_pipeline_does(
    engines: dict[str, Engine], models: dict[str, Path]
) -> None:
    # Given
    engine = engines["tiny-2.5"]
    output, convolutional = engine.run(request_of(DIFFUSION)), engine.run(request_of(Sampling()))
    assert output.decoding == Decoding(Decoder.DIFFUSION, 3 + SEED_OFFSET)
    assert convolutional.decoding == Decoding()
    assert torch.equal(output.video_latents, convolutional.video_latents)
    assert not np.array_equal(output.frames, convolutional.frames)
    # When
    decoder = LTX2VideoDiffusionDecoderModel.from_pretrained(models["tiny-2.5"] / "diffusion_decoder")
    decoder.set_attn_processor(NeighborhoodProcessor())
    stock = LTX2VideoDiffusionDecodePipeline(diffusion_decoder=decoder, scheduler=engine.pipeline.scheduler)
    generator = torch.Generator().manual_seed(3 + SEED_OFFSET)
    settings: dict[str, Any] = {"output_type": "np", "denormalize": False, "return_dict": False}
    [pictures] = stock(output.video_latents, generator=generator, **settings)
    # Then
    assert np.abs(output.frames - 255 * pictures[0]).max() <= 1


@pytest.mark.faults
@pytest.mark.filterwarnings("ignore")  # FlexAttention says that it is slow on a CPU: half a minute
def test_our_attention_is_that_of_diffusers(models: dict[str, Path]) -> None:
    decoder = LTX2VideoDiffusionDecoderModel.from_pretrained(models["tiny-2.5"] / "diffusion_decoder")
    latents = torch.randn(1, 16, 2, 2, 2, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        stock = decoder.decode(latents, generator=torch.Generator().manual_seed(2)).sample
        decoder.set_attn_processor(NeighborhoodProcessor())
        ours = decoder.decode(latents, generator=torch.Generator().manual_seed(2)).sample
    torch.testing.assert_close(ours, stock, rtol=0, atol=5e-6)


def test_a_model_without_a_diffusion_decoder_refuses_it(engines: dict[str, Engine]) -> None:
    with pytest.raises(RequestError, match=r"^decoder is diffusion, but \S+ has no diffusion_decoder: remove it"):
        engines["tiny"].run(request_of(DIFFUSION), on_step=never)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"_class_name": "AutoencoderKLLTX2Video"}, "diffusion_decoder has a AutoencoderKLLTX2Video, not a LTX2VideoD"),
        ({"latent_channels": 128}, "diffusion_decoder: latent_channels is 128; it must be 16"),
        ({"temporal_compression_ratio": 4}, "temporal_compression_ratio is 4; it must be 8"),
        ({"decoder_t_emb_dim": 64}, "cannot load|differs from its config"),
    ],
)
def test_a_diffusion_decoder_that_does_not_fit_is_rejected(
    models: dict[str, Path], tmp_path: Path, keys: dict[str, Any], message: str
) -> None:
    folder = shutil.copytree(models["tiny-2.5"], tmp_path / "model")
    edit(folder / "diffusion_decoder/config.json", **keys)
    with pytest.raises(CheckpointError, match=message):
        Engine.load(str(folder), device="cpu").run(request_of(DIFFUSION), on_step=never)


def test_a_picture_smaller_than_the_windows_is_rejected(engines: dict[str, Engine]) -> None:
    assert smallest_picture({}) == (224, 224, 17)  # as published
    engine = engines["tiny-2.5"]
    with pytest.raises(RequestError, match="the diffusion decoder cannot decode 32x64 pixels and 17 frames; it needs"):
        engine.run(request_of(DIFFUSION, width=32), on_step=never)
    assert engine.run(request_of(DIFFUSION, width=64, height=32)).frames.shape == (17, 32, 64, 3)
