"""The spectrograms that audio VAEs were trained with."""

from __future__ import annotations

import numpy as np
import torch
from transformers.audio_utils import mel_filter_bank

from ltx2.model.codecs.spectrum import BINS, HOP, MARGIN, WINDOW, log_mel, published, shapes, slaney_filterbank


def test_the_filters_of_published_models_are_those_of_slaney() -> None:
    expected = mel_filter_bank(513, 64, 0, 8000, 16_000, norm="slaney", mel_scale="slaney").T
    assert np.allclose(slaney_filterbank().numpy(), expected, atol=1e-8)


def test_a_frame_of_a_published_spectrogram_is_centred_on_its_sample() -> None:
    # Given
    sound = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
    # When
    mel = published(sound, 40)
    # Then a frame in the middle is what its samples give, computed another way
    assert mel.shape == (2, 40, BINS)
    for frame, padded in ((8, sound[0]), (0, torch.cat([sound[0, 1:513].flip(0), sound[0]]))):
        start = 8 * HOP - WINDOW // 2 if frame else 0
        piece = padded[start : start + WINDOW].double().numpy()
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
        expected = np.log(np.maximum(slaney_filterbank().double().numpy() @ np.abs(np.fft.rfft(piece * window)), 1e-5))
        assert np.allclose(mel[0, frame].numpy(), expected, atol=1e-4)
    # And silence follows the sound
    assert (mel[:, 30:] == np.float32(np.log(1e-5))).all()


def test_the_small_models_spectrogram_has_silence_around_its_sound() -> None:
    sound = torch.randn(2, 3200, generator=torch.Generator().manual_seed(0))
    around = torch.nn.functional.pad(sound, (MARGIN, 8 * HOP + MARGIN))
    assert torch.equal(shapes(sound, 28), log_mel(around))
