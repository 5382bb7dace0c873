"""The loss of both autoencoders: reconstruction and KL divergence."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

KL_WEIGHT = 3e-4


def reconstruction(autoencoder: Any, original: Tensor) -> dict[str, Tensor]:
    """Absolute and squared error of the reconstruction of `original`, and KL divergence of its latents."""
    latents = autoencoder.encode(original).latent_dist
    got = autoencoder.decode(latents.sample()).sample.float()
    return {
        "absolute": F.l1_loss(got, original),
        "squared": F.mse_loss(got, original),
        "divergence": KL_WEIGHT * latents.kl().mean() / latents.mean[0].numel(),
    }
