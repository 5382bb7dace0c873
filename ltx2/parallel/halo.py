"""Convolutions that see the neighbours' edges of a picture that is split into strips.

The other operations of the picture's VAE do not look across space: norms are per pixel, and pixels are shuffled within
one latent. So with these convolutions, a strip decodes to what the whole picture has there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from ltx2.parallel.strips import Strip

PADDING_MODES = ("zeros", "reflect", "replicate")


@dataclass(slots=True)
class Current:
    """The strip that convolutions of a model work on now, or None for the whole picture."""

    strip: Strip | None = None


class HaloConv3d(nn.Conv3d):
    """A convolution of `[B, C, F, H, W]`: of a strip while there is one, as a part of the whole picture's."""

    current: Current

    def forward(self, x: Tensor) -> Tensor:
        strip = self.current.strip
        if strip is None:
            return super().forward(x)
        along, mode = strip.axis - 2, self.padding_mode
        padding = list(_padding(self))
        x = strip.with_neighbours(x, padding[along], mode)
        padding[along] = 0
        if mode != "zeros":
            x = F.pad(x, [width for width in reversed(padding) for _ in range(2)], mode=mode)
            padding = [0, 0, 0]
        return F.conv3d(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


def add_halos(model: nn.Module) -> Current | None:
    """Let the convolutions of `model` work on strips, in place. Returns what says on which; None: they cannot."""
    spatial = [layer for layer in model.modules() if isinstance(layer, nn.Conv3d) and layer.kernel_size[1:] != (1, 1)]
    if not all(_can_be_split(layer) for layer in spatial):
        return None
    current = Current()
    for layer in spatial:
        layer.__class__ = HaloConv3d
        cast(HaloConv3d, layer).current = current
    return current


@contextmanager
def working_on(current: Current, strip: Strip) -> Iterator[None]:
    """Convolutions work on `strip` in this block."""
    current.strip = strip
    try:
        yield
    finally:
        current.strip = None


def _can_be_split(layer: nn.Conv3d) -> bool:
    """Whether each value depends only on as many neighbours as are padded, on both sides."""
    padding = _padding(layer)
    return (
        layer.padding_mode in PADDING_MODES
        and layer.stride[1:] == layer.dilation[1:] == (1, 1)
        and layer.kernel_size[1:] == (2 * padding[1] + 1, 2 * padding[2] + 1)
    )


def _padding(layer: nn.Conv3d) -> tuple[int, ...]:
    return layer.padding if isinstance(layer.padding, tuple) else (-1, -1, -1)
