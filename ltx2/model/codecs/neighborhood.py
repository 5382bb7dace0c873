"""Attention of each token to a window around it, in blocks of tokens, for the diffusion decoder of LTX-2.5.

diffusers has it as FlexAttention, whose mask is larger than the memory of any GPU at full size, and with kernels that a
worker would have to download. Here, the tokens of a block attend to the windows of all of them, with a mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

SMALLEST_BLOCK = 8
"""Tokens along one axis of a block; a wider window has wider blocks."""


class NeighborhoodProcessor:
    """An attention processor of diffusers' `LTX2VideoVaeNeighborhoodAttention`."""

    def __call__(self, attention: Any, hidden_states: Tensor, block_mask: None = None) -> Tensor:
        """Attend within `hidden_states` `[B, T, H, W, C]`."""
        query, key, value = attention.project_qkv(hidden_states)
        attended = neighborhood_attention(query, key, value, attention.kernel_size)
        projected: Tensor = attention.to_out[0](attended.flatten(-2))
        return projected


@dataclass(frozen=True, slots=True)
class _Span:
    """A block along one axis: its queries, the keys of all their windows, and which query sees which key."""

    queries: slice
    keys: slice
    mask: Tensor


def neighborhood_attention(query: Tensor, key: Tensor, value: Tensor, window: tuple[int, ...]) -> Tensor:
    """The attention of each token to `window` tokens around it; all are `[B, T, H, W, heads, D]`, the query is scaled.

    At a border the window is shifted inwards, so that it always has the same size, as NATTEN does. A window wider than
    the grid is the grid.
    """
    axes = [
        list(_spans(length, min(width, length), query.device))
        for length, width in zip(query.shape[1:4], window, strict=True)
    ]
    attended = torch.empty_like(query)
    for t, h, w in product(*axes):
        tokens, seen = (slice(None), t.queries, h.queries, w.queries), (slice(None), t.keys, h.keys, w.keys)
        mask = t.mask[:, None, None, :, None, None] & h.mask[:, None, None, :, None] & w.mask[:, None, None, :]
        block = query[tokens]
        flat = [part.flatten(1, 3).transpose(1, 2) for part in (block, key[seen], value[seen])]
        result = scaled_dot_product_attention(
            flat[0], flat[1], flat[2], attn_mask=mask.flatten(3).flatten(0, 2), scale=1.0
        )
        attended[tokens] = result.transpose(1, 2).reshape(block.shape)
    return attended


def _spans(length: int, width: int, device: torch.device) -> Iterator[_Span]:
    size = max(SMALLEST_BLOCK, width)
    for start in range(0, length, size):
        queries = torch.arange(start, min(start + size, length), device=device)
        first = (queries - width // 2).clamp(0, length - width)[:, None]
        begin = max(0, min(start - width // 2, length - width))
        end = max(0, min(min(start + size, length) - 1 - width // 2, length - width)) + width
        keys = torch.arange(begin, end, device=device)
        yield _Span(
            slice(start, min(start + size, length)), slice(begin, end), (keys >= first) & (keys < first + width)
        )
