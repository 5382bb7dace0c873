"""Pictures encoded by several ranks together, each a strip of them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ltx2.parallel.halo import add_halos
from ltx2.parallel.ranks import Ranks
from ltx2.parallel.strips import strip_of


def share_encoder(vae: Any, ranks: Ranks) -> None:
    """Let ranks encode each picture together, in place. Every rank must be given all of it, and gets all latents.

    vae: an `AutoencoderKLLTX2Video`, whose encoder halves pictures within one latent, as its decoder doubles them.
    """
    current = add_halos(vae.encoder)
    if current is None:
        return

    def cut(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        pixels, *rest = args
        latents = (side // vae.spatial_compression_ratio for side in pixels.shape[-2:])
        current.strip = None if vae.use_tiling else strip_of(ranks, *latents)
        return (pixels if current.strip is None else current.strip.cut(pixels), *rest)

    def join(_: nn.Module, args: tuple[Any, ...], encoded: Tensor) -> Tensor:
        strip, current.strip = current.strip, None
        return encoded if strip is None else strip.join(encoded).contiguous()

    vae.encoder.register_forward_pre_hook(cut)
    vae.encoder.register_forward_hook(join)
