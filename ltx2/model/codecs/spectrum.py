"""The input of the audio VAE: log-mel spectrograms of 64 bins, 100 frames per second, from 16 kHz.

The published models and the shipped small one have different ones. The wrong one is no error, only wrong sound.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

RATE, HOP, WINDOW, BINS = 16_000, 160, 1024, 64
MARGIN = (WINDOW - HOP) // 2
"""Samples before and after a frame's 10 ms that the window of `log_mel` includes."""
_FLOOR = 1e-3  # of full scale; anything softer is silence
_PUBLISHED_FLOOR = 1e-5
_SLANEY_HZ, _SLANEY_MELS = 1000.0, 15.0  # up to here the Slaney scale is linear
_SLANEY_STEP = math.log(6.4) / 27

FrontEnd = Callable[[Tensor, int], Tensor]
"""From sound `[2, n]` and a count T to a spectrogram `[2, T, 64]`; its first 10 ms begin at the first sample."""


def published(samples: Tensor, frames: int) -> Tensor:
    """The spectrogram of the published models: natural logarithm of magnitudes, at least 1e-5.

    Frame t is centred on sample 160 t, with a Hann window of 1024; the sound is reflected where it begins, and silence
    follows it. 64 filters on the Slaney scale from 0 to 8000 Hz, with Slaney's norm.
    """
    sound = _padded(samples, 0, (frames - 1) * HOP + WINDOW // 2 + 1)
    window = torch.hann_window(WINDOW, device=sound.device)
    spectrum = torch.stft(
        sound, WINDOW, HOP, window=window, center=True, pad_mode="reflect", return_complex=True
    ).abs()  # fmt: skip
    mel = slaney_filterbank().to(sound.device) @ spectrum[..., :frames]
    return mel.clamp(min=_PUBLISHED_FLOOR).log().mT


def shapes(samples: Tensor, frames: int) -> Tensor:
    """The spectrogram of the small model, see `log_mel`; silence is before and after the sound."""
    return log_mel(_padded(samples, MARGIN, frames * HOP + 2 * MARGIN))


def log_mel(samples: Tensor) -> Tensor:
    """Log-mel spectrogram `[..., T, 64]` of sound `[..., n]` at 16 kHz: -1 is silence, 1 is full scale in one bin.

    Frame t is centred on its 10 ms. The sound must have `MARGIN` more samples than the frames at both ends.
    """
    flat = samples.reshape(-1, samples.shape[-1])
    window = torch.hann_window(WINDOW, device=samples.device)
    spectrum = torch.stft(flat, WINDOW, HOP, window=window, center=False, return_complex=True).abs() / (WINDOW / 4)
    mel = (filterbank(WINDOW).to(samples.device) @ spectrum).clamp(min=_FLOOR)
    scaled = 1 - 2 * mel.log() / math.log(_FLOOR)
    return scaled.mT.reshape(*samples.shape[:-1], mel.shape[-1], BINS)


def filterbank(window: int, *, bins: int = BINS, rate: int = RATE) -> Tensor:
    """Triangular mel filters `[bins, window // 2 + 1]`, equally spaced on the HTK mel scale from 0 to `rate` / 2.

    mel = 2595 log10(1 + f / 700): O'Shaughnessy, Speech Communication, 1987.
    """
    top = 2595 * math.log10(1 + rate / 2 / 700)
    return _triangles(700 * (10 ** (torch.linspace(0, top, bins + 2) / 2595) - 1), window, rate)


def slaney_filterbank() -> Tensor:
    """Triangular mel filters `[64, 513]` from 0 to 8000 Hz, equally spaced on the Slaney scale, each of area 1.

    Linear up to 1 kHz, 27 steps of a logarithm per factor of 6.4 above: Slaney, Auditory Toolbox, 1998.
    """
    top = _SLANEY_MELS + math.log(RATE / 2 / _SLANEY_HZ) / _SLANEY_STEP
    mels = torch.linspace(0, top, BINS + 2, dtype=torch.float64)
    above = _SLANEY_HZ * torch.exp(_SLANEY_STEP * (mels - _SLANEY_MELS))
    corners = torch.where(mels < _SLANEY_MELS, mels * _SLANEY_HZ / _SLANEY_MELS, above)
    filters = _triangles(corners, WINDOW, RATE)
    return (filters * (2 / (corners[2:] - corners[:-2]))[:, None]).float()


def _triangles(corners: Tensor, window: int, rate: int) -> Tensor:
    """Filters `[n - 2, window // 2 + 1]` that rise from each of n frequencies to the next and fall to the one after."""
    frequencies = torch.arange(window // 2 + 1) * rate / window
    rising = (frequencies - corners[:-2, None]) / (corners[1:-1] - corners[:-2])[:, None]
    falling = (corners[2:, None] - frequencies) / (corners[2:] - corners[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp(min=0)


def _padded(samples: Tensor, before: int, length: int) -> Tensor:
    """Exactly `length` samples, of which the first `before` are silence."""
    missing = length - before - samples.shape[-1]
    return F.pad(samples[..., : length - before], (before, max(0, missing)))
