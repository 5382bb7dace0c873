"""Encoding a user's sound to the latents that a model continues."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ltx2.engine import Engine
from ltx2.errors import RequestError
from ltx2.media.sources.extension import LEAD, SAMPLES_PER_LATENT
from ltx2.model.codecs import spectrum
from training.world import Shape, World

CIRCLE = Shape("circle", "red", "up and right", "", 20.0, 40.0, 60.0, 90.0)
RED_CIRCLE = World((CIRCLE,), "blue", "low hum")
LATENTS = 40


def sound_of(seconds: float) -> NDArray[np.float32]:
    return RED_CIRCLE.samples(0.0, round(seconds * 16_000), 16_000).T


@pytest.fixture(scope="module")
def shapes() -> Engine:
    return Engine.load("shapes", device="cpu")


def test_sound_survives_the_way_into_the_latents_and_back(shapes: Engine) -> None:
    # Given the sound of a world
    sound = sound_of(LATENTS / 25)
    # When it is encoded, and decoded to a spectrogram again
    latents = shapes.encode_sound(sound, LATENTS)
    assert latents.shape == (1, 8, LATENTS, 16)
    with torch.inference_mode():
        raw = shapes.pipeline.denormalize_audio(latents)
        again = shapes.pipeline.audio_vae.decode(raw).sample[0]
    # Then it is the same, as the small model measures it
    expected = spectrum.shapes(torch.from_numpy(sound.T.copy()), again.shape[1])
    assert (again - expected).abs().mean() < 0.03
    published = spectrum.published(torch.from_numpy(sound.T.copy()), again.shape[1])
    assert (again - published).abs().mean() > 1


def test_a_part_with_a_lead_is_encoded_as_the_whole_is(shapes: Engine) -> None:
    # Given
    sound = sound_of(2 * LATENTS / 25)
    whole = shapes.encode_sound(sound, 2 * LATENTS)
    # When / Then
    for first in (LEAD, LATENTS):
        part = shapes.encode_sound(sound[(first - LEAD) * SAMPLES_PER_LATENT :], LATENTS, lead=LEAD)
        assert torch.allclose(part, whole[:, :, first : first + LATENTS], atol=1e-4)
    without = shapes.encode_sound(sound[LATENTS * SAMPLES_PER_LATENT :], LATENTS)
    assert not torch.allclose(without, whole[:, :, LATENTS:], atol=0.1)


def test_sound_of_another_form_is_refused(shapes: Engine) -> None:
    for sound in (np.zeros(100, np.float32), np.zeros((100, 6), np.float32), np.full((100, 2), np.nan, np.float32)):
        with pytest.raises(RequestError, match=r"sound is \[100"):
            shapes.encode_sound(sound, 4)


def test_every_version_encodes_sound(engine: Engine) -> None:
    latents = engine.encode_sound(sound_of(0.2), 5)
    assert latents.shape == (1, 8, 5, 16)
    assert torch.equal(latents, engine.encode_sound(sound_of(0.2), 5))
