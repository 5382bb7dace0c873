"""Attention of each token to the window around it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ltx2.model.codecs.neighborhood import neighborhood_attention


def windows(length: int, width: int) -> list[range]:
    """The window of each of `length` tokens, `width` wide, and shifted inwards at the ends."""
    width = min(width, length)
    starts = [min(max(token - width // 2, 0), length - width) for token in range(length)]
    return [range(start, start + width) for start in starts]


def token_by_token(query: Tensor, key: Tensor, value: Tensor, window: tuple[int, ...]) -> Tensor:
    """The same as a sum over the window of each token."""
    result = torch.zeros_like(query)
    axes = [windows(length, width) for length, width in zip(query.shape[1:4], window, strict=True)]
    for t, frames in enumerate(axes[0]):
        for h, rows in enumerate(axes[1]):
            for w, columns in enumerate(axes[2]):
                seen = [slice(None), *(slice(part[0], part[-1] + 1) for part in (frames, rows, columns))]
                keys, values = (part[tuple(seen)].flatten(1, 3) for part in (key, value))
                weights = torch.einsum("bhd,bkhd->bhk", query[:, t, h, w], keys).softmax(-1)
                result[:, t, h, w] = torch.einsum("bhk,bkhd->bhd", weights, values)
    return result


@pytest.mark.parametrize(
    ("grid", "window"),
    [
        ((1, 1, 1), (1, 1, 1)),
        ((5, 4, 6), (3, 3, 3)),
        ((3, 9, 17), (3, 2, 5)),  # more than a block, and an even window
        ((4, 3, 20), (11, 11, 11)),  # wider than the grid, and than a block of the smallest size
    ],
)
def test_each_token_attends_to_its_window(grid: tuple[int, int, int], window: tuple[int, int, int]) -> None:
    random = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(2, *grid, 2, 8, generator=random) for _ in range(3))
    ours = neighborhood_attention(query, key, value, window)
    torch.testing.assert_close(ours, token_by_token(query, key, value, window), rtol=0, atol=2e-6)
