"""From sound to the audio latents that a model denoises: spectrogram, the audio VAE's encoder, normalisation."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ltx2.errors import RequestError
from ltx2.model.codecs import spectrum
from ltx2.model.codecs.host_copies import Checked
from ltx2.model.finite import all_finite
from ltx2.model.pipeline import LongtakePipeline

RATE = spectrum.RATE


class SoundEncoder:
    """Encodes sound for one model. Its spectrogram follows from the config of the audio VAE."""

    def __init__(self, pipeline: LongtakePipeline) -> None:
        self._pipeline = pipeline
        self._front_end = front_end_of(pipeline)

    def __call__(self, sound: NDArray[np.float32], latents: int, lead: int, device: torch.device) -> Checked:
        """Latents `[1, 8, latents, 16]`, normalised, float32.

        sound: `[samples, 2]` at 16 kHz, with silence after its end. Its first `lead` * 640 samples only lead in.
        Without a lead, the sound begins there: the first latent has one frame of the spectrogram, all others four.

        Raises:
            RequestError: sound of another form, or that is not finite.
        """
        if sound.ndim != 2 or sound.shape[1] != 2 or not np.isfinite(sound).all():
            raise RequestError(f"sound is {list(sound.shape)}; it must be finite numbers [samples, 2] at {RATE} Hz")
        vae = self._pipeline.audio_vae
        count = 4 * (lead + latents) - 3
        samples = torch.from_numpy(np.ascontiguousarray(sound.T, np.float32)).to(device)
        mel = self._front_end(samples, count)[None]
        with torch.backends.cudnn.flags(enabled=True, deterministic=True):
            encoded = vae.encode(mel.to(vae.dtype)).latent_dist.mode().float()
        normal = self._pipeline.normalize_audio(encoded)[:, :, lead : lead + latents].contiguous()
        return Checked(normal, "sound latents", all_finite(normal))


def front_end_of(pipeline: LongtakePipeline) -> spectrum.FrontEnd:
    """The spectrogram that the model was trained with. Only the small models normalise by a single number."""
    return spectrum.shapes if pipeline.audio_vae.config.base_channels == 1 else spectrum.published
