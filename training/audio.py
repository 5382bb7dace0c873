"""Training of the audio autoencoder, on log-mel spectrograms, and of the vocoder."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ltx2.model.codecs.spectrum import HOP, MARGIN, RATE, log_mel
from training import world
from training.clips import batches
from training.loop import Stage
from training.reconstruction import reconstruction

LATENTS = 20
_VOCODED = 12  # audio latents per clip, without context on either side


class SoundClip(NamedTuple):
    """Sound `[2, n]` at 16 kHz and its log-mel spectrogram `[2, T, 64]`, with 160 samples per mel frame."""

    mel: NDArray[np.float32]
    samples: NDArray[np.float32]


def sound_clip(scene: world.World, start: float, frames: int) -> SoundClip:
    """`frames` mel frames of a world's sound from time `start` on, with their samples."""
    wide = scene.samples(start - MARGIN / RATE, frames * HOP + 2 * MARGIN, RATE)
    return SoundClip(log_mel(torch.from_numpy(wide)).numpy(), wide[:, MARGIN:-MARGIN])


def clip(rng: np.random.Generator) -> NDArray[np.float32]:
    """The log-mel spectrogram `[2, 77, 64]` of a random world, from a random moment on."""
    scene, _ = world.draw(rng)
    return sound_clip(scene, rng.uniform(0, 30), 4 * LATENTS - 3).mel


def autoencoder_stage(audio_vae: Any, *, steps: int, size: int, processes: int) -> Stage:
    """Reconstruction of log-mel spectrograms."""
    device = next(audio_vae.parameters()).device

    def step(mel: Tensor) -> dict[str, Tensor]:
        return reconstruction(audio_vae, mel.to(device))

    return Stage(
        "audio", audio_vae, step, lambda seed: batches(clip, seed, size=size, processes=processes), steps, 1e-3
    )


@torch.no_grad()
def set_statistics(audio_vae: Any, *, clips: int, seed: int = 1) -> None:
    """Measure and set mean and standard deviation of all latents, with which latents are normalised."""
    rng, device = np.random.default_rng(seed), next(audio_vae.parameters()).device
    mels = torch.from_numpy(np.stack([clip(rng) for _ in range(clips)])).to(device)
    latents = audio_vae.encode(mels).latent_dist.mode().float()
    audio_vae.latents_mean.fill_(latents.mean())
    audio_vae.latents_std.fill_(latents.std())


def vocoder_clip(rng: np.random.Generator) -> SoundClip:
    """Input and target of the vocoder: a spectrogram `[2, 61, 64]`, and the sound of 48 of its frames."""
    scene, _ = world.draw(rng)
    start = rng.uniform(0, 30)
    mel = sound_clip(scene, start, 4 * _VOCODED + 13).mel
    return SoundClip(mel, periodic_sound(scene, start + 5 * HOP / RATE, 4 * _VOCODED * HOP))


def periodic_sound(scene: world.World, start: float, count: int) -> NDArray[np.float32]:
    """The world's sound `[2, count]` at 16 kHz, built only from multiples of 100 Hz.

    While its spectrogram is constant, the output of a convolutional vocoder repeats every 10 ms, so it cannot produce
    other frequencies. A tone becomes the mixture of its two neighbours whose power-weighted mean frequency is the
    tone's.
    """
    if world.SOUNDS[scene.sound] is None:
        return np.zeros((2, count), np.float32)
    times = start + np.arange(count) / RATE
    multiple, between = np.divmod(scene.pitch(times) / (RATE / HOP), 1)
    turns = 2 * np.pi * (np.arange(count) % HOP) / HOP
    mixture = np.sqrt(1 - between) * np.sin(multiple * turns) + np.sqrt(between) * np.sin((multiple + 1) * turns)
    return np.asarray(np.stack(scene.gains(times)) * mixture, np.float32)


def vocoder_stage(vocoder: Any, audio_vae: Any, *, steps: int, size: int, processes: int) -> Stage:
    """Reconstruction of samples; half of the spectrograms are reconstructions of the autoencoder."""
    device = next(vocoder.parameters()).device

    def step(batch: list[Tensor]) -> dict[str, Tensor]:
        mel, samples = (part.to(device) for part in batch)
        with torch.no_grad():
            again = audio_vae.decode(audio_vae.encode(mel).latent_dist.mode()).sample.float()
        mel = torch.cat([mel[: len(mel) // 2], again[len(mel) // 2 :]])
        got = vocoder.vocoder(mel)[..., 5 * HOP : -8 * HOP].float()
        return {"absolute": F.l1_loss(got, samples), "squared": 10 * F.mse_loss(got, samples)}

    return Stage(
        "vocoder", vocoder, step, lambda seed: batches(vocoder_clip, seed, size=size, processes=processes), steps, 1e-3
    )
