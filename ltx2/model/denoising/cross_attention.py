"""The noise levels that the attention between picture and sound is given, as the model's authors have it.

What enters the attention is scaled and shifted, per token, by that token's own noise level. What comes out is gated,
per stream, by the other stream's sigma. The two differ where tokens are pinned, which is in every continuation: a
pinned token's own level is 0. This holds for all versions (Lightricks/LTX-2 since 2026-05-28). diffusers 0.42.1 has
"own level for both" (`use_cross_timestep=False`) and "the other stream's sigma for both" (`True`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn

GATES = {"av_cross_attn_video_a2v_gate": "audio_sigma", "av_cross_attn_audio_v2a_gate": "sigma"}


@dataclass(eq=False)
class _GateLevels:
    """The sigmas of a transformer's current call, for its gates."""

    factor: float
    sigmas: dict[str, Tensor] = field(default_factory=dict)

    def keep(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Before the transformer: remember the sigmas, and have diffusers use each token's own level."""
        self.sigmas = {name: kwargs[name].flatten() for name in GATES.values()}
        return args, kwargs | {"use_cross_timestep": False}

    def replace(self, name: str, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Before a gate: give it the sigma of this name in place of its timestep."""
        return (self.sigmas[name] * self.factor, *args[1:])


def apply_cross_attention_rule(transformer: Any) -> None:
    """Make an `LTX2VideoTransformer3DModel` follow the rule in every call, whatever `use_cross_timestep` says.

    Calls must name `sigma` and `audio_sigma`, `[B]`, as diffusers' pipelines do.
    """
    config = transformer.config
    levels = _GateLevels(config.cross_attn_timestep_scale_multiplier / config.timestep_scale_multiplier)
    transformer.register_forward_pre_hook(levels.keep, with_kwargs=True)
    for gate, sigma in GATES.items():
        getattr(transformer, gate).register_forward_pre_hook(partial(levels.replace, sigma))
