"""Attention of a fast block in parts, so that something else can be computed between them.

`B` items of `T` or `A` tokens, `H` heads of `D` channels; no part copies what it reads.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
import torch.nn.functional as F
from diffusers.models.transformers.transformer_ltx2 import LTX2Attention
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

Rotary: TypeAlias = tuple[Tensor, Tensor]

_KERNELS = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def query_of(attn: LTX2Attention, x: Tensor, rotary: Rotary | None = None) -> Tensor:
    """`[B, T, H, D]`, normalised, and rotated by position; x: `[B, T, C]`."""
    return _rotate(attn, attn.norm_q(attn.to_q(x)), rotary)


def key_of(attn: LTX2Attention, context: Tensor, rotary: Rotary | None = None) -> Tensor:
    """As `query_of`."""
    return _rotate(attn, attn.norm_k(attn.to_k(context)), rotary)


def value_of(attn: LTX2Attention, context: Tensor) -> Tensor:
    """`[B, T, H, D]`."""
    return _by_head(attn, attn.to_v(context))


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """`[B, T, H, D]` each, and the result."""
    query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    if not query.is_cuda:
        result = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    else:
        with sdpa_kernel(_KERNELS, set_priority=True):
            result = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return result.transpose(1, 2)


def output_of(attn: LTX2Attention, x: Tensor, result: Tensor) -> Tensor:
    """The output `[B, T, C]` of the attention of `x`, whose `result` is `[B, T, H, D]`."""
    if attn.to_gate_logits is not None:
        result = result * (2 * torch.sigmoid(attn.to_gate_logits(x)))[..., None]
    out: Tensor = attn.to_out[0](result.flatten(2))
    return out


def attend(
    attn: LTX2Attention,
    x: Tensor,
    context: Tensor,
    query_rotary: Rotary | None,
    key_rotary: Rotary | None,
    *,
    perturbed: bool = False,
) -> Tensor:
    """Attention of `x` to `context`, as a whole. If perturbed, each token of `x` attends only to itself."""
    result = value_of(attn, context)
    if not perturbed:
        result = attention(query_of(attn, x, query_rotary), key_of(attn, context, key_rotary), result)
    return output_of(attn, x, result)


def _by_head(attn: LTX2Attention, x: Tensor) -> Tensor:
    """`[B, T, H * D]` as `[B, T, H, D]`."""
    return x.reshape(*x.shape[:2], attn.heads, -1)


def _rotate(attn: LTX2Attention, x: Tensor, rotary: Rotary | None) -> Tensor:
    """`[B, T, H * D]` as `[B, T, H, D]`, rotated by position."""
    heads = _by_head(attn, x)
    if rotary is None:
        return heads
    return (_rotate_pairs if attn.rope_type == "interleaved" else _rotate_halves)(heads, *rotary)


def _rotate_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of channel i with i + D/2. x: `[B, T, H, D]`; cos, sin: float32 `[B, H, T, D/2]`."""
    first, second = x.float().chunk(2, dim=3)
    cos, sin = cos.transpose(1, 2), sin.transpose(1, 2)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=3).to(x.dtype)


def _rotate_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of channel 2i with 2i + 1. x: `[B, T, H, D]`; cos, sin: float32 `[B, T, H * D]`."""
    even, odd = x.float()[..., 0::2], x.float()[..., 1::2]
    cos, sin = cos.reshape(*cos.shape[:2], *x.shape[2:]), sin.reshape(*sin.shape[:2], *x.shape[2:])
    rotated = torch.stack([-odd, even], dim=4).flatten(3)
    return (x.float() * cos + rotated * sin).to(x.dtype)
