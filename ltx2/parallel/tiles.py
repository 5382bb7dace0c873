"""Tiles of the diffusion decoder of LTX-2.5, each decoded by one rank.

diffusers decodes tiles one after the other, and then blends them. Here, its method runs twice. First, each rank decodes
its tiles, and has tensors without values (of the device `meta`) for the others. Then all ranks exchange their tiles,
and its method blends these. So tiles, noise and blending are those of one rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from diffusers.models.autoencoders.ltx2_diffusion_decoder import LTX2VideoDiffusionDecoder3d
from torch import Tensor

from ltx2.parallel.ranks import Ranks

_NOWHERE = torch.device("meta")


def decode_in_tiles(model: Any, latents: Tensor, generator: torch.Generator, ranks: Ranks) -> Tensor:
    """Pixels `[B, 3, n, H, W]` of latents, as `model.decode` gives them, on all ranks.

    model: a `LTX2VideoDiffusionDecoderModel`. All ranks draw the noise of all tiles, because it comes from one
    generator, and compute the first stages, which have no tiles.
    """
    decoder = model.decoder
    stock, decoder.__class__ = decoder.__class__, _SharedDecoder
    try:
        decoder.shared = shared = _Shared(ranks)
        model.decode(latents, generator=generator)
        shared.exchange()
        pixels: Tensor = model.decode(latents.to(_NOWHERE)).sample
    finally:
        decoder.__class__ = stock
        del decoder.shared
    return pixels


@dataclass(slots=True)
class _Shared:
    """The tiles of one picture, in the order of diffusers. work: cells that each rank has to decode."""

    ranks: Ranks
    features: Tensor | None = None
    owners: list[int] = field(default_factory=list)
    tiles: list[Tensor] = field(default_factory=list)
    work: list[int] = field(default_factory=list)
    decoded: Iterator[Tensor] | None = None

    def is_mine(self, cells: int) -> bool:
        """Whether this rank decodes the next tile: the rank does that has the least work so far."""
        self.work = self.work or [0] * self.ranks.count
        owner = self.work.index(min(self.work))
        self.work[owner] += cells
        self.owners.append(owner)
        return owner == self.ranks.rank

    def exchange(self) -> None:
        """Send each tile from its owner to all others."""
        assert self.features is not None
        for index, (owner, tile) in enumerate(zip(self.owners, self.tiles, strict=True)):
            mine = owner == self.ranks.rank
            sent = tile.contiguous() if mine else torch.empty_like(tile, device=self.features.device)
            dist.broadcast(sent, group=self.ranks.group, group_src=owner)
            self.tiles[index] = sent
        self.features = self.features.to(_NOWHERE)
        self.decoded = iter(self.tiles)


class _SharedDecoder(LTX2VideoDiffusionDecoder3d):  # type: ignore[misc]
    """A decoder that decodes the tiles of one rank, and then takes all that were decoded."""

    shared: _Shared

    def forward_stages_1_to_3(self, hidden_states: Tensor) -> Tensor:
        if self.shared.features is None:
            self.shared.features = super().forward_stages_1_to_3(hidden_states)
        return self.shared.features

    def forward_stage_4(
        self, hidden_states: Tensor, drop_leading_frame: bool = True, crop_trailing_ghost: bool = True
    ) -> Tensor:
        if self.shared.decoded is None and self.shared.is_mine(hidden_states[..., 0].numel()):
            context: Tensor = super().forward_stage_4(hidden_states, drop_leading_frame, crop_trailing_ghost)
            return context
        batch, *size, _ = hidden_states.shape
        frames, height, width = (length * by for length, by in zip(size, self.upsamples[-1].stride, strict=True))
        frames -= drop_leading_frame and self.upsamples[-1].stride[0] == 2
        frames -= self.trailing_pad_latent_frames * self.temporal_compression_ratio if crop_trailing_ghost else 0
        shape = (batch, frames, height, width, self.context_channels)
        return hidden_states.new_empty(shape, device=_NOWHERE)

    def denoise(self, latent_context: Tensor, x_t: Tensor, num_inference_steps: int) -> Tensor:
        if self.shared.decoded is not None:
            return next(self.shared.decoded)
        if latent_context.is_meta:
            self.shared.tiles.append(x_t.to(_NOWHERE))
        else:
            self.shared.tiles.append(super().denoise(latent_context, x_t, num_inference_steps))
        return x_t.to(_NOWHERE)
