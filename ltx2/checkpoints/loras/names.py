"""The names that trainers give to the tensors of a LoRA, and the layers of diffusers' LTX-2 that they mean.

A name is a layer and a suffix. The suffixes are those of peft (`lora_A`, `lora_B`, which the name of an adapter may
follow) and of kohya (`lora_down`, `lora_up`, `alpha`). A layer has the name of diffusers or that of the model's
authors, after any of PREFIXES; or that of kohya, which begins with one of FLAT_PREFIXES and has underscores in place of
dots.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

PREFIXES = (
    *("base_model.model.", "model.diffusion_model.", "diffusion_model.", "model."),
    *("lora_transformer.", "transformer.", "connectors."),
)
FLAT_PREFIXES = ("lora_unet_", "lora_transformer_", "lycoris_")

AUTHORS_FIRST = {
    "proj_in": "patchify_proj",
    "audio_proj_in": "audio_patchify_proj",
    "time_embed": "adaln_single",
    "audio_time_embed": "audio_adaln_single",
    "prompt_adaln": "prompt_adaln_single",
    "audio_prompt_adaln": "audio_prompt_adaln_single",
    "av_cross_attn_video_scale_shift": "av_ca_video_scale_shift_adaln_single",
    "av_cross_attn_audio_scale_shift": "av_ca_audio_scale_shift_adaln_single",
    "av_cross_attn_video_a2v_gate": "av_ca_a2v_gate_adaln_single",
    "av_cross_attn_audio_v2a_gate": "av_ca_v2a_gate_adaln_single",
    "video_connector": "video_embeddings_connector",
    "audio_connector": "audio_embeddings_connector",
    "text_proj_in": "text_embedding_projection.aggregate_embed",
    "video_text_proj_in": "text_embedding_projection.video_aggregate_embed",
    "audio_text_proj_in": "text_embedding_projection.audio_aggregate_embed",
}
_SUFFIX = re.compile(
    r"(?P<layer>.+?)\.(?:"
    r"(?P<down>lora_A|lora_down|lora\.down)(?:\.[^.]+)?\.weight"
    r"|(?P<up>lora_B|lora_up|lora\.up)(?:\.[^.]+)?\.weight"
    r"|(?P<alpha>alpha))"
)
_OTHERS = {"lokr_": "LoKr", "hada_": "LoHa", "oft_": "OFT", "boft_": "BOFT"}
"""How the last segment of a name begins in other kinds of adapters."""
_DORA = re.compile(r".+\.(dora_scale|lora_magnitude_vector)(\..+)?")


class Role(StrEnum):
    """What a tensor of a LoRA is: a factor `[rank, in]`, a factor `[out, rank]`, or a number."""

    DOWN = "down"
    UP = "up"
    ALPHA = "alpha"


@dataclass(frozen=True, slots=True, order=True)
class Layer:
    """A linear layer of diffusers' LTX-2. component: `transformer` or `connectors`; name: of the module in it."""

    component: str
    name: str

    def __str__(self) -> str:
        return f"{self.component}.{self.name}"


def parse(tensor: str) -> tuple[str, Role] | None:
    """The written layer of a tensor's name, and what the tensor is; None for a name that is not of a LoRA."""
    if not (match := _SUFFIX.fullmatch(tensor)):
        return None
    return match["layer"], next(role for role in Role if match[role])


def is_dora(tensor: str) -> bool:
    """Whether this is the name of a magnitude, which makes a LoRA a DoRA."""
    return _DORA.fullmatch(tensor) is not None


def other_adapter(tensor: str) -> str | None:
    """The kind of adapter, other than a LoRA, that has tensors of this name; None if there is none."""
    return next((kind for begin, kind in _OTHERS.items() if tensor.rpartition(".")[2].startswith(begin)), None)


class LayerNames:
    """The layers of a model by every name that a LoRA may have for them."""

    def __init__(self, layers: Iterable[Layer]) -> None:
        self._dotted = {name: layer for layer in layers for name in (layer.name, _authors_name(layer))}
        self._flat = {name.replace(".", "_"): layer for name, layer in self._dotted.items()}

    def layer(self, written: str) -> Layer | None:
        """The layer that the `written` name means; None if this model has no such layer."""
        name = written
        while prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), None):
            name = name.removeprefix(prefix)
        flat = next((prefix for prefix in FLAT_PREFIXES if name.startswith(prefix)), None)
        if flat is None:
            return self._dotted.get(name)
        name = name.removeprefix(flat)
        while prefix := next((prefix for prefix in map(_flattened, PREFIXES) if name.startswith(prefix)), None):
            if name in self._flat:  # the names of blocks begin like a prefix
                break
            name = name.removeprefix(prefix)
        return self._flat.get(name)


def _flattened(name: str) -> str:
    return name.replace(".", "_")


def _authors_name(layer: Layer) -> str:
    first, dot, rest = layer.name.partition(".")
    if layer.component == "connectors":
        rest = rest.replace("transformer_blocks", "transformer_1d_blocks", 1)
    return f"{AUTHORS_FIRST.get(first, first)}{dot}{rest}"
