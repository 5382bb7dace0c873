"""The input of the audio VAE: log-mel spectrograms of 64 bins, 100 frames per second, from 16 kHz."""

from __future__ import annotations

import math

import torch
from torch import Tensor

RATE, HOP, WINDOW, BINS = 16_000, 160, 1024, 64
MARGIN = (WINDOW - HOP) // 2
"""Samples before and after a frame's 10 ms that its window includes."""
_FLOOR = 1e-3  # of full scale; anything softer is silence


def filterbank(window: int, *, bins: int = BINS, rate: int = RATE) -> Tensor:
    """Triangular mel filters `[bins, window // 2 + 1]`, equally spaced on the HTK mel scale from 0 to `rate` / 2.

    mel = 2595 log10(1 + f / 700): O'Shaughnessy, Speech Communication, 1987.
    """
    top = 2595 * math.log10(1 + rate / 2 / 700)
    corners = 700 * (10 ** (torch.linspace(0, top, bins + 2) / 2595) - 1)
    frequencies = torch.arange(window // 2 + 1) * rate / window
    rising = (frequencies - corners[:-2, None]) / (corners[1:-1] - corners[:-2])[:, None]
    falling = (corners[2:, None] - frequencies) / (corners[2:] - corners[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp(min=0)


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
