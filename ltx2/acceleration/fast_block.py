"""A faster transformer block: same parameters and result as diffusers' block, less memory traffic.

- Every token of a stream has one of two noise levels, such as 0 and sigma. The modulation is computed for both and
  selected per token where it is used, instead of being written to memory for every token.
- Attention reads its inputs without copies, and the GELU is in the epilogue of its matrix product.

Ranks can compute a block together, each with a part of the picture's tokens: see `ltx2.parallel.exchange`. An exchange
starts as soon as its input is there and ends where its result is needed. What is in between (another product, sound or
text) is computed at the same time. Queries and keys are first, because the compiler rotates both in one kernel.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import gcd
from typing import Any, TypeAlias

import torch
from diffusers.models.transformers.transformer_ltx2 import LTX2Attention, LTX2VideoTransformerBlock
from torch import Tensor, nn

from ltx2.acceleration.attention import Rotary, attend, attention, key_of, output_of, query_of, value_of
from ltx2.acceleration.fp8_attention import attend_float8
from ltx2.parallel.exchange import Alone, Exchange

Words: TypeAlias = tuple[Tensor, Tensor, Tensor | None]
"""Keys and values of a text, and what is added to the attention to each of its tokens."""


@dataclass(slots=True)
class CallTokens:
    """What all blocks know of the tokens in a call.

    video, audio: which tokens have the higher of their stream's two noise levels, bool `[B, T, 1]`. exchange: with the
    ranks that share the picture's tokens.
    """

    video: Tensor
    audio: Tensor
    exchange: Exchange = field(default_factory=Alone)


class FastBlock(LTX2VideoTransformerBlock):  # type: ignore[misc]  # diffusers is untyped
    """The class that `ltx2.acceleration.compile.speed_up` sets on diffusers' loaded blocks; never constructed."""

    tokens: CallTokens
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
        With ranks, the video tokens are those of this rank.
        """
        video, audio = hidden_states, audio_hidden_states
        video_levels, audio_levels = self.tokens.video, self.tokens.audio
        video_mod = _modulation(self.scale_shift_table, temb, video_levels)
        audio_mod = _modulation(self.audio_scale_shift_table, temb_audio, audio_levels)
        perturbed = perturbation_mask is not None
        text, audio_text = encoder_hidden_states, audio_encoder_hidden_states
        if self.cross_attn_adaln:
            text = _modulated_text(text, self.prompt_scale_shift_table, temb_prompt)
            audio_text = _modulated_text(audio_text, self.audio_prompt_scale_shift_table, temb_prompt_audio)

        exchange = self.tokens.exchange
        inner = _modulated(self.norm1, video, video_mod)
        parts = _start_self(self.attn1, inner, video_rotary_emb, exchange, perturbed)
        audio = _attend_self(self.audio_norm1, self.audio_attn1, audio, audio_mod, audio_rotary_emb, perturbed)
        result = parts[0] if perturbed else self._attend_parts(parts)
        audio_words = (*_words(self.audio_attn2, audio_text), audio_encoder_attention_mask)
        audio = _attend_text(self.audio_norm2, self.audio_attn2, audio, audio_words, audio_mod[6:])
        words = (*_words(self.attn2, text), encoder_attention_mask)
        result = result if perturbed else exchange.tokens(result)
        video = video + output_of(self.attn1, inner, result) * video_mod[2]
        video = _attend_text(self.norm2, self.attn2, video, words, video_mod[6:])
        if not (use_a2v_cross_attention or use_v2a_cross_attention):
            return (
                _feed_forward(self.norm3, self.ff, video, video_mod),
                _feed_forward(self.audio_norm3, self.audio_ff, audio, audio_mod),
            )
        return self._attend_across(
            video,
            audio,
            video_mod,
            audio_mod,
            _modulation(self.video_a2v_cross_attn_scale_shift_table[:4], temb_ca_scale_shift, video_levels)
            + _modulation(self.video_a2v_cross_attn_scale_shift_table[4:], temb_ca_gate, video_levels),
            _modulation(self.audio_a2v_cross_attn_scale_shift_table[:4], temb_ca_audio_scale_shift, audio_levels)
            + _modulation(self.audio_a2v_cross_attn_scale_shift_table[4:], temb_ca_audio_gate, audio_levels),
            ca_video_rotary_emb,
            ca_audio_rotary_emb,
        )

    def _attend_parts(self, parts: list[Any]) -> Any:
        """The result of the attention of what `_start_self` started, under way."""
        exchange = self.tokens.exchange
        queries, keys, values = [exchange.heads(part) for part in parts]
        if not self.float8_attention:
            return exchange.start_tokens(attention(queries, keys, values), "result")
        norms = self.attn1.norm_q, self.attn1.norm_k
        return exchange.start_tokens(attend_float8(queries, keys, values, *norms), "result")

    def _attend_across(
        self,
        video: Tensor,
        audio: Tensor,
        video_mod: list[Tensor],
        audio_mod: list[Tensor],
        video_across: list[Tensor],
        audio_across: list[Tensor],
        video_rotary: Rotary | None,
        audio_rotary: Rotary | None,
    ) -> tuple[Tensor, Tensor]:
        """Audio-to-video and video-to-audio attention, which read the streams as they were before; feed-forward."""
        exchange, to_audio = self.tokens.exchange, self.video_to_audio_attn
        normal_video, normal_audio = self.audio_to_video_norm(video), self.video_to_audio_norm(audio)
        seen = normal_video * (1 + video_across[2]) + video_across[3]
        values = exchange.start_heads(value_of(to_audio, seen), "values for sound")
        keys = exchange.start_heads(key_of(to_audio, seen, video_rotary), "keys for sound")
        video = video + video_across[4] * attend(
            self.audio_to_video_attn,
            normal_video * (1 + video_across[0]) + video_across[1],
            normal_audio * (1 + audio_across[0]) + audio_across[1],
            video_rotary,
            audio_rotary,
        )
        asking = normal_audio * (1 + audio_across[2]) + audio_across[3]
        queries = exchange.own_heads(query_of(to_audio, asking, audio_rotary))
        result = exchange.start_all_heads(attention(queries, exchange.heads(keys), exchange.heads(values)), "sound")
        video = _feed_forward(self.norm3, self.ff, video, video_mod)
        audio = audio + audio_across[4] * output_of(to_audio, asking, exchange.all_heads(result))
        return video, _feed_forward(self.audio_norm3, self.audio_ff, audio, audio_mod)


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


def _modulated(norm: nn.Module, x: Tensor, mod: list[Tensor]) -> Tensor:
    """`x` normalised, scaled and shifted; mod begins with shift and scale."""
    normal: Tensor = norm(x) * (1 + mod[1]) + mod[0]
    return normal


def _start_self(
    attn: LTX2Attention, inner: Tensor, rotary: Rotary | None, exchange: Exchange, perturbed: bool
) -> list[Any]:
    """Queries, keys and values of the picture under way. If perturbed, only its values, and they stay."""
    if perturbed:
        return [value_of(attn, inner)]
    queries, keys = query_of(attn, inner, rotary), key_of(attn, inner, rotary)
    started = [exchange.start_heads(queries, "queries"), exchange.start_heads(keys, "keys")]
    return [*started, exchange.start_heads(value_of(attn, inner), "values")]


def _attend_self(
    norm: nn.Module, attn: LTX2Attention, x: Tensor, mod: list[Tensor], rotary: Rotary | None, perturbed: bool
) -> Tensor:
    inner = _modulated(norm, x, mod)
    return x + attend(attn, inner, inner, rotary, rotary, perturbed=perturbed) * mod[2]


def _words(attn: LTX2Attention, text: Tensor) -> tuple[Tensor, Tensor]:
    return key_of(attn, text), value_of(attn, text)


def _attend_text(norm: nn.Module, attn: LTX2Attention, x: Tensor, words: Words, mod: list[Tensor]) -> Tensor:
    """mod: empty for 2.0."""
    inner = _modulated(norm, x, mod) if mod else norm(x)
    keys, values, mask = words
    result = output_of(attn, inner, attention(query_of(attn, inner), keys, values, mask))
    return x + (result * mod[2] if mod else result)


def _feed_forward(norm: nn.Module, ff: nn.Module, x: Tensor, mod: list[Tensor]) -> Tensor:
    inner: Tensor = ff(_modulated(norm, x, mod[3:6]))
    return x + inner * mod[5]
