"""A faster transformer block: same parameters and result as diffusers' block, less memory traffic.

- Every token of a stream has one of two noise levels, such as 0 and sigma. The modulation is computed for both and
  selected per token where it is used, instead of being written to memory for every token.
- Attention reads its inputs without copies, and the GELU is in the epilogue of its matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from diffusers.models.transformers.transformer_ltx2 import LTX2Attention, LTX2VideoTransformerBlock
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ltx2.acceleration.fp8_attention import attend_float8

Rotary: TypeAlias = tuple[Tensor, Tensor]

_KERNELS = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


@dataclass(slots=True)
class TokenLevels:
    """Which tokens have the higher of the two noise levels, shared by all blocks: bool `[B, T, 1]` per stream."""

    video: Tensor
    audio: Tensor


class FastBlock(LTX2VideoTransformerBlock):  # type: ignore[misc]  # diffusers is untyped
    """The class that `ltx2.acceleration.compile.speed_up` sets on diffusers' loaded blocks; never constructed."""

    levels: TokenLevels
    float8_attention = False
    """Whether the picture's self-attention is in float8."""

    def forward(
        self,
        hidden_states: Tensor,
        audio_hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        audio_encoder_hidden_states: Tensor,
        temb: Tensor,
        temb_audio: Tensor,
        temb_ca_scale_shift: Tensor,
        temb_ca_audio_scale_shift: Tensor,
        temb_ca_gate: Tensor,
        temb_ca_audio_gate: Tensor,
        temb_prompt: Tensor | None = None,
        temb_prompt_audio: Tensor | None = None,
        video_rotary_emb: Rotary | None = None,
        audio_rotary_emb: Rotary | None = None,
        ca_video_rotary_emb: Rotary | None = None,
        ca_audio_rotary_emb: Rotary | None = None,
        encoder_attention_mask: Tensor | None = None,
        audio_encoder_attention_mask: Tensor | None = None,
        use_a2v_cross_attention: bool = True,
        use_v2a_cross_attention: bool = True,
        perturbation_mask: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, Tensor]:
        """The arguments of diffusers' block; video `[B, T, 4096]` and audio `[B, A, 2048]` in and out.

        If there is a perturbation mask, the whole batch is perturbed; longtake does not need masks of single items.
        """
        video_levels, audio_levels = self.levels.video, self.levels.audio
        video_mod = _modulation(self.scale_shift_table, temb, video_levels)
        audio_mod = _modulation(self.audio_scale_shift_table, temb_audio, audio_levels)
        perturbed = perturbation_mask is not None

        video = self._attend_self(
            self.norm1,
            self.attn1,
            hidden_states,
            video_mod,
            video_rotary_emb,
            perturbed,
            float8=self.float8_attention,
        )
        audio = self._attend_self(
            self.audio_norm1, self.audio_attn1, audio_hidden_states, audio_mod, audio_rotary_emb, perturbed
        )
        text, audio_text = encoder_hidden_states, audio_encoder_hidden_states
        if self.cross_attn_adaln:
            text = _modulated_text(text, self.prompt_scale_shift_table, temb_prompt)
            audio_text = _modulated_text(audio_text, self.audio_prompt_scale_shift_table, temb_prompt_audio)
        video = _attend_text(self.norm2, self.attn2, video, text, video_mod[6:], encoder_attention_mask)
        audio = _attend_text(
            self.audio_norm2, self.audio_attn2, audio, audio_text, audio_mod[6:], audio_encoder_attention_mask
        )
        if use_a2v_cross_attention or use_v2a_cross_attention:
            video, audio = self._attend_across(
                video,
                audio,
                _modulation(self.video_a2v_cross_attn_scale_shift_table[:4], temb_ca_scale_shift, video_levels)
                + _modulation(self.video_a2v_cross_attn_scale_shift_table[4:], temb_ca_gate, video_levels),
                _modulation(self.audio_a2v_cross_attn_scale_shift_table[:4], temb_ca_audio_scale_shift, audio_levels)
                + _modulation(self.audio_a2v_cross_attn_scale_shift_table[4:], temb_ca_audio_gate, audio_levels),
                ca_video_rotary_emb,
                ca_audio_rotary_emb,
            )
        return (
            _feed_forward(self.norm3, self.ff, video, video_mod),
            _feed_forward(self.audio_norm3, self.audio_ff, audio, audio_mod),
        )

    @staticmethod
    def _attend_self(
        norm: nn.Module,
        attn: LTX2Attention,
        x: Tensor,
        mod: list[Tensor],
        rotary: Rotary | None,
        perturbed: bool,
        *,
        float8: bool = False,
    ) -> Tensor:
        shift, scale, gate = mod[:3]
        inner = norm(x) * (1 + scale) + shift
        return x + attend(attn, inner, inner, rotary, rotary, perturbed=perturbed, float8=float8) * gate

    def _attend_across(
        self,
        video: Tensor,
        audio: Tensor,
        video_mod: list[Tensor],
        audio_mod: list[Tensor],
        video_rotary: Rotary | None,
        audio_rotary: Rotary | None,
    ) -> tuple[Tensor, Tensor]:
        """Audio-to-video and video-to-audio attention; both read the streams as they were before."""
        normal_video, normal_audio = self.audio_to_video_norm(video), self.video_to_audio_norm(audio)
        to_video = attend(
            self.audio_to_video_attn,
            normal_video * (1 + video_mod[0]) + video_mod[1],
            normal_audio * (1 + audio_mod[0]) + audio_mod[1],
            video_rotary,
            audio_rotary,
        )
        to_audio = attend(
            self.video_to_audio_attn,
            normal_audio * (1 + audio_mod[2]) + audio_mod[3],
            normal_video * (1 + video_mod[2]) + video_mod[3],
            audio_rotary,
            video_rotary,
        )
        return video + video_mod[4] * to_video, audio + audio_mod[4] * to_audio


def heads_of(transformer: Any) -> int:
    """The heads of an `LTX2VideoTransformer3DModel` that ranks can share: of the picture and of the sound alike."""
    config = transformer.config
    return gcd(config.num_attention_heads, config.audio_num_attention_heads)


def _modulation(table: Tensor, temb: Tensor, levels: Tensor) -> list[Tensor]:
    """The block's table plus the embedded noise levels, one `[B, T or 1, D]` per row of the table.

    temb: `[B, L, n * D]`; L is 2, the lower level first, if tokens have levels of their own, otherwise 1.
    """
    values = table[None, None] + temb.reshape(*temb.shape[:2], *table.shape)
    if values.shape[1] == 1:
        return list(values.unbind(2))
    return [torch.where(levels, value[:, 1:], value[:, :1]) for value in values.unbind(2)]


def _modulated_text(text: Tensor, table: Tensor, temb: Tensor | None) -> Tensor:
    values = table[None, None].to(text.dtype)
    if temb is not None:
        values = table[None, None] + temb.reshape(*temb.shape[:2], *table.shape)
    shift, scale = values.unbind(2)
    return text * (1 + scale) + shift


def _attend_text(
    norm: nn.Module, attn: LTX2Attention, x: Tensor, text: Tensor, mod: list[Tensor], mask: Tensor | None
) -> Tensor:
    if not mod:  # 2.0
        return x + attend(attn, norm(x), text, None, None, mask=mask)
    shift, scale, gate = mod
    return x + attend(attn, norm(x) * (1 + scale) + shift, text, None, None, mask=mask) * gate


def _feed_forward(norm: nn.Module, ff: nn.Module, x: Tensor, mod: list[Tensor]) -> Tensor:
    shift, scale, gate = mod[3:6]
    inner: Tensor = ff(norm(x) * (1 + scale) + shift)
    return x + inner * gate


def attend(
    attn: LTX2Attention,
    x: Tensor,
    context: Tensor,
    query_rotary: Rotary | None,
    key_rotary: Rotary | None,
    *,
    mask: Tensor | None = None,
    perturbed: bool = False,
    float8: bool = False,
) -> Tensor:
    """Attention of `x` to `context` (`x` itself in self-attention). If perturbed, each token attends only to itself.

    float8: see `ltx2.acceleration.fp8_attention`; without a mask.
    """
    value = attn.to_v(context)
    if perturbed:
        result = value
    else:
        query, key = attn.to_q(x), attn.to_k(context)
        query, key = attn.norm_q(query), attn.norm_k(key)
        query, key = _rotate(attn, query, query_rotary), _rotate(attn, key, key_rotary)
        if float8:
            result = attend_float8(query, key, _by_head(attn, value), attn.norm_q, attn.norm_k)
        else:
            result = _attention(query, key, _by_head(attn, value), mask)
    if attn.to_gate_logits is not None:
        gates = 2 * torch.sigmoid(attn.to_gate_logits(x))
        result = (_by_head(attn, result) * gates[..., None]).flatten(2)
    out: Tensor = attn.to_out[0](result)
    return out


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


def _attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """`[B, T, H, D]` each; the result is `[B, T, H * D]`."""
    query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    if not query.is_cuda:
        result = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    else:
        with sdpa_kernel(_KERNELS, set_priority=True):
            result = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return result.transpose(1, 2).flatten(2)
