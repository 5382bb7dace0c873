"""The sound's autoencoder, which works on log-mel spectrograms, and the vocoder, which makes sound of them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from training import world
from training.clips import batches
from training.loop import Stage
from training.reconstruction import reconstruction
from training.spectrum import HOP, MARGIN, RATE, log_mel

LATENTS = 20
_VOCODED = 12  # audio latents per clip, without what is only heard around them


class Heard(NamedTuple):
    """Sound `[2, n]` at 16 kHz, and its log-mel spectrogram `[2, T, 64]`; 160 samples belong to each frame."""

    mel: NDArray[np.float32]
    samples: NDArray[np.float32]


def listen(scene: world.World, start: float, frames: int) -> Heard:
    """`frames` mel frames of a world's sound from time `start` on, and the samples that belong to them."""
    wide = scene.samples(start - MARGIN / RATE, frames * HOP + 2 * MARGIN, RATE)
    return Heard(log_mel(torch.from_numpy(wide)).numpy(), wide[:, MARGIN:-MARGIN])


def clip(rng: np.random.Generator) -> NDArray[np.float32]:
    """The log-mel spectrogram `[2, 77, 64]` of a random world, from a random moment on."""
    scene, _ = world.draw(rng)
    return listen(scene, rng.uniform(0, 30), 4 * LATENTS - 3).mel


def autoencoder_stage(audio_vae: Any, *, steps: int, size: int, processes: int) -> Stage:
    """Reconstruction of log-mel spectrograms."""
    device = next(audio_vae.parameters()).device

    def step(mel: Tensor) -> dict[str, Tensor]:
        return reconstruction(audio_vae, mel.to(device))

    return Stage(
        "audio", audio_vae, step, lambda seed: batches(clip, seed, size=size, processes=processes), steps, 1e-3
    )


@torch.no_grad()
def settle_statistics(audio_vae: Any, *, clips: int, seed: int = 1) -> None:
    """Measure mean and spread of all latents, by which the transformer sees them normalised."""
    rng, device = np.random.default_rng(seed), next(audio_vae.parameters()).device
    mels = torch.from_numpy(np.stack([clip(rng) for _ in range(clips)])).to(device)
    latents = audio_vae.encode(mels).latent_dist.mode().float()
    audio_vae.latents_mean.fill_(latents.mean())
    audio_vae.latents_std.fill_(latents.std())


def vocoded(rng: np.random.Generator) -> Heard:
    """What the vocoder learns from: a spectrogram `[2, 61, 64]`, and the sound to make of 48 frames of it."""
    scene, _ = world.draw(rng)
    start = rng.uniform(0, 30)
    mel = listen(scene, start, 4 * _VOCODED + 13).mel
    return Heard(mel, locked(scene, start + 5 * HOP / RATE, 4 * _VOCODED * HOP))


def locked(scene: world.World, start: float, count: int) -> NDArray[np.float32]:
    """The world's sound `[2, count]` at 16 kHz, of multiples of 100 Hz alone.

    A vocoder of convolutions repeats itself every 10 ms while its spectrogram stands still, so it can sound nothing
    else. Any tone becomes the mixture of its two neighbours whose mean frequency, weighted with power, is the tone's.
    """
    if world.SOUNDS[scene.sound] is None:
        return np.zeros((2, count), np.float32)
    times = start + np.arange(count) / RATE
    multiple, between = np.divmod(scene.pitch(times) / (RATE / HOP), 1)
    turns = 2 * np.pi * (np.arange(count) % HOP) / HOP
    mixture = np.sqrt(1 - between) * np.sin(multiple * turns) + np.sqrt(between) * np.sin((multiple + 1) * turns)
    return np.asarray(np.stack(scene.gains(times)) * mixture, np.float32)


def vocoder_stage(vocoder: Any, audio_vae: Any, *, steps: int, size: int, processes: int) -> Stage:
    """Samples of the sound; half of the spectrograms are as the autoencoder gives them back."""
    device = next(vocoder.parameters()).device

    def step(heard: list[Tensor]) -> dict[str, Tensor]:
        mel, samples = (part.to(device) for part in heard)
        with torch.no_grad():
            again = audio_vae.decode(audio_vae.encode(mel).latent_dist.mode()).sample.float()
        mel = torch.cat([mel[: len(mel) // 2], again[len(mel) // 2 :]])
        got = vocoder.vocoder(mel)[..., 5 * HOP : -8 * HOP].float()
        return {"absolute": F.l1_loss(got, samples), "squared": 10 * F.mse_loss(got, samples)}

    return Stage(
        "vocoder", vocoder, step, lambda seed: batches(vocoded, seed, size=size, processes=processes), steps, 1e-3
    )
