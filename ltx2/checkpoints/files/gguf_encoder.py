"""The text encoder in a GGUF file of llama.cpp: names, norms and config of Gemma 3 and Gemma 4. No torch.

llama.cpp calls the layers `blk.N`, adds 1 to the weights of Gemma 3's norms, and to none of Gemma 4's.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ltx2.checkpoints.components import Stored, TextEncoder
from ltx2.checkpoints.files.gemma_config import (
    EVERY,
    FULL_FACTOR,
    FULL_LAYERS,
    LOCAL_THETA,
    gemma_3_config,
    layer_types,
)
from ltx2.checkpoints.formats.gguf import ARCHITECTURE
from ltx2.checkpoints.formats.weight_files import Header
from ltx2.checkpoints.variant import GEMMA_4, Config
from ltx2.errors import CheckpointError, UnsupportedModelError

ARCHITECTURES = ("gemma3", "gemma4")
PROJECTOR = "clip"
"""The architecture of a file with the tower for pictures, mmproj."""
ONLY_IN_GEMMA_4 = (".layer_scalar", ".layer_output_scale.weight")
"""How names of tensors end that Gemma 3 does not have, in transformers and in llama.cpp."""
TOKENIZERS = ("llama", "gemma4")
"""The tokenizers that a vocabulary in a GGUF file can be of, as `tokenizer.ggml.model` names them."""

_OUTER = {"token_embd.weight": "embed_tokens.weight", "output_norm.weight": "norm.weight"}
_IN_LAYER = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_q_norm.weight": "self_attn.q_norm.weight",
    "attn_k_norm.weight": "self_attn.k_norm.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "post_attention_norm.weight": "post_attention_layernorm.weight",
    "ffn_norm.weight": "pre_feedforward_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
    "post_ffw_norm.weight": "post_feedforward_layernorm.weight",
    "layer_output_scale.weight": "layer_scalar",
}
_UNUSED = ("output.weight", "rope_freqs.weight", "v.", "mm.", "a.")
"""The head, a table that follows from the config, and towers for pictures and sound."""
_LAYER = re.compile(r"blk\.(\d+)\.(.+)")
_ROPE_FREQS = "rope_freqs.weight"
_MOST_LAYERS, _LARGEST = 1000, 1 << 20  # bounds for hostile files: Gemma 12B has 48 layers and 262,144 pieces


def is_encoder(architecture: str | None) -> bool:
    """Whether a GGUF file of this architecture is a text encoder that longtake knows."""
    return architecture in ARCHITECTURES


def has_vocabulary(header: Header) -> bool:
    """Whether a GGUF file with this header has a tokenizer of Gemma in it."""
    return header.metadata.get("tokenizer.ggml.model") in TOKENIZERS


def encoder_in_gguf(file: Path, header: Header) -> TextEncoder:
    """The text encoder in the GGUF `file`, without a tokenizer of its own: see `has_vocabulary`.

    Raises:
        UnsupportedModelError: another Gemma, or a part of a file.
        CheckpointError: its metadata lacks what the config needs.
    """
    parts = header.numbers.get("split.count", 1)
    if parts != 1:
        raise UnsupportedModelError(
            f"text_encoder: {file} is one of {parts} parts: join them with `llama-gguf-split --merge`"
        )
    architecture = header.metadata[ARCHITECTURE]
    values = _Values(file, architecture, header.numbers)
    config = _gemma_3(values, header) if architecture == "gemma3" else _gemma_4(values, header)
    added = 1.0 if architecture == "gemma3" else 0.0
    tensors = {}
    for written, tensor in header.tensors.items():
        if not written.startswith(_UNUSED):
            name = encoder_name(written)
            shift = added if name.endswith("norm.weight") else 0.0
            tensors[name] = Stored.of(file, written, tensor, added=shift)
    return TextEncoder(file, config, None, tensors, {})


def encoder_name(written: str) -> str:
    """The name in transformers of the tensor `written`; one that is not known is kept."""
    if match := _LAYER.fullmatch(written):
        return f"language_model.layers.{match[1]}.{_IN_LAYER.get(match[2], match[2])}"
    return f"language_model.{_OUTER.get(written, written)}"


class _Values:
    """The numbers in the metadata of `file` that are of its `architecture`; CheckpointError if they are not valid."""

    def __init__(self, file: Path, architecture: str, numbers: Mapping[str, Any]) -> None:
        self.file = file
        self._architecture = architecture
        self._numbers = numbers

    def get(self, name: str, default: Any = None) -> Any:
        return self._numbers.get(f"{self._architecture}.{name}", default)

    def wrong(self, name: str, expected: str) -> CheckpointError:
        found = self.get(name)
        said = "is missing" if found is None else f"is {found!r:.100}; it must be {expected}"
        return CheckpointError(f"text_encoder: {self.file}: {self._architecture}.{name} in its metadata {said}")

    def whole(self, name: str) -> int:
        """A size, which is at least 1."""
        value = self.get(name)
        if not isinstance(value, int) or not 1 <= value <= _LARGEST:
            raise self.wrong(name, f"1 to {_LARGEST}")
        return int(value)

    def real(self, name: str, default: float | None = None) -> float:
        """A positive number."""
        value = self.get(name, default)
        if not isinstance(value, int | float) or not 0 < value < math.inf:
            raise self.wrong(name, "positive")
        return float(value)

    def per_layer(self, name: str, layers: int) -> list[int]:
        """A number for each layer, of which the file may have one for all."""
        value = self.get(name)
        values = value if isinstance(value, list) else [value] * layers
        if len(values) != layers or not all(isinstance(one, int) and 0 <= one <= _LARGEST for one in values):
            raise self.wrong(name, f"{layers} numbers, one for each layer")
        return values

    def layer_types(self, layers: int) -> list[str]:
        """Which layers see a window, and which all tokens: every sixth, if the file does not say."""
        name = "attention.sliding_window_pattern"
        if isinstance(self.get(name), list):
            return ["sliding_attention" if one else "full_attention" for one in self.per_layer(name, layers)]
        return layer_types(layers, self.whole(name) if self.get(name) is not None else EVERY)


def _shared(values: _Values, header: Header) -> dict[str, Any]:
    """What the configs of both have."""
    layers = values.whole("block_count")
    if layers > _MOST_LAYERS:
        raise values.wrong("block_count", f"at most {_MOST_LAYERS}")
    table = header.tensors.get("token_embd.weight")
    if table is None or len(table.shape) != 2:
        raise CheckpointError(
            f"text_encoder: {values.file} lacks token_embd.weight, or it does not have two dimensions"
        )
    return {
        "vocab_size": table.shape[0],
        "hidden_size": values.whole("embedding_length"),
        "intermediate_size": values.whole("feed_forward_length"),
        "num_hidden_layers": layers,
        "num_attention_heads": values.whole("attention.head_count"),
        "rms_norm_eps": values.real("attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": values.whole("context_length"),
        "sliding_window": values.whole("attention.sliding_window"),
        "layer_types": values.layer_types(layers),
    }


def _gemma_3(values: _Values, header: Header) -> Config:
    """The config of a Gemma 3. Its 12B model has its positions scaled by 8, also where a file does not say so."""
    shared = _shared(values, header)
    return gemma_3_config(
        shared
        | {
            "num_key_value_heads": values.whole("attention.head_count_kv"),
            "head_dim": values.whole("attention.key_length"),
        },
        factor=values.real("rope.scaling.factor", FULL_FACTOR if shared["num_hidden_layers"] == FULL_LAYERS else 1.0),
        theta=values.real("rope.freq_base"),
        local_theta=values.real("rope.freq_base_swa", LOCAL_THETA),
    )


def _gemma_4(values: _Values, header: Header) -> Config:
    """The config of a Gemma 4. Only its name says whether it is that of LTX-2.5."""
    others = ("attention.shared_kv_layers", "embedding_length_per_layer_input", "expert_count")
    if found := [name for name in others if values.get(name)]:
        raise UnsupportedModelError(
            f"text_encoder: {values.file} is a Gemma 4 with {found[0]}; LTX-2.5 has the dense one with 12 billion "
            "parameters"
        )
    shared = _shared(values, header)
    types = shared["layer_types"]
    heads = dict(zip(types, values.per_layer("attention.head_count_kv", len(types)), strict=True))
    if "full_attention" not in heads:
        raise values.wrong("attention.sliding_window_pattern", "false for some layers")
    first_full = types.index("full_attention")
    text = shared | {
        "model_type": "gemma4_unified_text",
        "num_key_value_heads": heads.get("sliding_attention", heads["full_attention"]),
        "num_global_key_value_heads": heads["full_attention"],
        "head_dim": values.whole("attention.key_length_swa"),
        "global_head_dim": values.whole("attention.key_length"),
        "attention_k_eq_v": f"blk.{first_full}.attn_v.weight" not in header.tensors,
        "rope_parameters": {
            "full_attention": {
                "rope_type": "proportional",
                "partial_rotary_factor": _rotated(values.file, header),
                "rope_theta": values.real("rope.freq_base"),
            },
            "sliding_attention": {
                "rope_type": "default",
                "rope_theta": values.real("rope.freq_base_swa", LOCAL_THETA),
            },
        },
    }
    if "ltx" not in f"{values.file.name} {header.metadata.get('general.name')}".lower():
        raise UnsupportedModelError(
            f"text_encoder: {values.file} may be a stock Gemma 4; LTX-2.5 was trained with {GEMMA_4}. A GGUF file of "
            "it must have `ltx` in its name, or in general.name of its metadata"
        )
    return {"model_type": "gemma4_unified", "gemma_version": GEMMA_4, "text_config": text}


def _rotated(file: Path, header: Header) -> float:
    """The share of a global head that is rotated: the other frequencies are divided by a very large number."""
    tensor = header.tensors.get(_ROPE_FREQS)
    if tensor is None or tensor.dtype != "F32" or not 0 < tensor.size <= _LARGEST:
        raise CheckpointError(f"text_encoder: {file} lacks {_ROPE_FREQS}, or it is not a short list of F32")
    factors = [factor for (factor,) in struct.iter_unpack("<f", Stored.of(file, _ROPE_FREQS, tensor).read())]
    return factors.count(1.0) / len(factors)
