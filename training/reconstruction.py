"""What both autoencoders are taught: to give back what they saw, and to need few numbers for it."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

KL_WEIGHT = 3e-4


def reconstruction(autoencoder: Any, seen: Tensor) -> dict[str, Tensor]:
    """Absolute and squared differences of `seen` and what comes back, and how far its latents diverge from noise."""
    latents = autoencoder.encode(seen).latent_dist
    got = autoencoder.decode(latents.sample()).sample.float()
    return {
        "absolute": F.l1_loss(got, seen),
        "squared": F.mse_loss(got, seen),
        "divergence": KL_WEIGHT * latents.kl().mean() / latents.mean[0].numel(),
    }
