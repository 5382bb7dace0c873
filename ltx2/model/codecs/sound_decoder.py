"""Decoding of audio latents to sound: the audio VAE, then the vocoder."""

from __future__ import annotations

import torch
from torch import Tensor

from ltx2.errors import CheckpointError
from ltx2.model.codecs.host_copies import Checked
from ltx2.model.finite import all_finite
from ltx2.model.pipeline import LongtakePipeline
from ltx2.timeline import sound_seconds


def decode_sound(pipeline: LongtakePipeline, rate: int, latents: Tensor) -> Checked:
    """Samples, float32 `[n, channels]` in [-1, 1], of normalised latents `[1, 8, T, 16]`, on the pipeline's device.

    rate: of the samples, Hz. It never waits for the device, so that it can be captured as a CUDA graph.

    Raises:
        CheckpointError: the vocoder returned too few samples.
    """
    vae = pipeline.audio_vae
    raw = pipeline.denormalize_audio(latents.float()).to(vae.dtype)
    # transposed convolutions are not deterministic by default; without `enabled`, `flags` switches cuDNN off
    with torch.backends.cudnn.flags(enabled=True, deterministic=True):
        mel = vae.decode(raw).sample
        wave: Tensor = pipeline.vocoder(mel.to(pipeline.vocoder.dtype))[0].float()
    samples = int(sound_seconds(latents.shape[2]) * rate)
    if wave.shape[1] < samples:
        raise CheckpointError(f"the vocoder returned {wave.shape[1]} of {samples} samples; its config is wrong")
    finite = all_finite(mel, wave)  # the end of a vocoder may hide infinity
    return Checked(wave[:, :samples].clamp(-1, 1).T.contiguous(), "samples of sound", finite)
