"""The config of a Gemma 3 in one file: its sizes, and the values that no tensor shows. No torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from ltx2.checkpoints.components import Stored
from ltx2.checkpoints.variant import Config
from ltx2.errors import CheckpointError

THETA, LOCAL_THETA = 1e6, 1e4
"""Bases of the rotary positions, of layers that see all tokens and of those that see a window."""
FULL_LAYERS, FULL_FACTOR = 48, 8.0
"""The 12B model has 48 layers, and positions scaled by 8 in those that see all tokens."""
EVERY = 6
"""Every sixth layer sees all tokens."""
_PUBLISHED = {"rms_norm_eps": 1e-6, "max_position_embeddings": 131_072, "sliding_window": 1024}
"""From config.json of google/gemma-3-12b-it and the defaults of transformers, which ComfyUI's code has, too."""
_LAYER = re.compile(r"language_model\.layers\.(\d+)\.")


def gemma_3_config(
    sizes: Config, *, factor: float = FULL_FACTOR, theta: float = THETA, local_theta: float = LOCAL_THETA
) -> Config:
    """The config of transformers for a Gemma 3 of these `sizes`, as its `text_config` names them.

    factor: by which positions are scaled in layers that see all tokens. theta, local_theta: see THETA.
    """
    full = {"rope_type": "linear", "factor": factor} if factor != 1 else {"rope_type": "default"}
    text = {
        "model_type": "gemma3_text",
        "query_pre_attn_scalar": sizes["head_dim"],  # in the 27B model alone it is another
        "rope_parameters": {
            "full_attention": full | {"rope_theta": theta},
            "sliding_attention": {"rope_type": "default", "rope_theta": local_theta},
        },
    }
    return {"model_type": "gemma3", "text_config": dict(sizes) | text}


def layer_types(layers: int, every: int = EVERY) -> list[str]:
    """Which layers see a window, and which all tokens."""
    return ["sliding_attention" if (number + 1) % every else "full_attention" for number in range(layers)]


def config_of_shapes(file: Path, tensors: Mapping[str, Stored]) -> Config:
    """The config of the Gemma 3 in `file`, whose sizes are those of `tensors`, by their names in transformers.

    All that shapes do not show is that of the published 12B model.

    Raises:
        CheckpointError: a tensor that shows a size is missing, or of another shape.
    """
    layers = 1 + max((int(match[1]) for name in tensors if (match := _LAYER.match(name))), default=-1)

    def shape(name: str, dims: int) -> tuple[int, ...]:
        stored = tensors.get(f"language_model.{name}.weight")
        if stored is None or len(stored.shape) != dims or 0 in stored.shape:
            raise CheckpointError(f"text_encoder: {file} lacks {name}.weight of Gemma 3, or its shape is another")
        return stored.shape

    vocabulary, width = shape("embed_tokens", 2)
    (head,) = shape("layers.0.self_attn.q_norm", 1)
    sizes = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shape("layers.0.mlp.gate_proj", 2)[0],
        "num_hidden_layers": layers,
        "num_attention_heads": shape("layers.0.self_attn.q_proj", 2)[0] // head,
        "num_key_value_heads": shape("layers.0.self_attn.k_proj", 2)[0] // head,
        "head_dim": head,
        "layer_types": layer_types(layers),
    }
    return gemma_3_config(sizes | _PUBLISHED)
