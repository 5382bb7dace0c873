"""Building the components of a model in files: modules without memory, whose tensors are then those of the files."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import Gemma3Config, Gemma4UnifiedConfig, GemmaTokenizer

from ltx2.checkpoints.components import Component, Stored, TextEncoder
from ltx2.checkpoints.encoder_files import TOKENIZER, TOKENIZER_CONFIG
from ltx2.checkpoints.weight_files import check_loaded
from ltx2.errors import CheckpointError
from ltx2.model.stored_tensors import StoredTensors, is_blocks

FLOAT8 = "F8_E4M3"
"""The float8 that layers can compute in, as files name it."""
STORED_IN = "_stored_in"
"""The attribute of a component that has its `Component`, from which its weights can be read again."""


class KeepQuantized(Protocol):
    """Makes the linear layer that keeps a quantized weight as it is stored."""

    def __call__(
        self, layer: str, stored: Stored, raw: Tensor, scale: Tensor | None, bias: Tensor | None
    ) -> nn.Module | None:
        """layer: its name in the component. raw, scale: as `StoredTensors` has them. None: it is converted instead."""


def load_component(kind: Any, component: Component, dtype: torch.dtype, keep: KeepQuantized | None = None) -> Any:
    """The component as a module of the class `kind`, with every tensor from its files. Others than kept are in `dtype`.

    Raises:
        CheckpointError: tensors are missing, of another shape, or unexpected.
    """
    with init_empty_weights(include_buffers=False):
        model = kind.from_config(dict(component.config))
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = component.tensors
    check_loaded(
        component.files[0],
        {
            "missing_keys": expected.keys() - found.keys(),
            "unexpected_keys": found.keys() - expected.keys(),
            "mismatched_keys": [name for name in expected if name in found and found[name].shape != expected[name]],
        },
    )
    quantized = {name for name, stored in found.items() if keep and _may_keep(model, name, stored)}
    tensors = StoredTensors()
    for name in sorted(found, key=quantized.__contains__):  # those last, when layers have their biases
        stored, layer = found[name], name.removesuffix(".weight")
        kept = None
        if keep and name in quantized:
            bias = model.get_submodule(layer).bias
            kept = keep(layer, stored, tensors.raw(stored), tensors.scale(stored), bias)
        if kept is None:
            _set(model, name, tensors.read(stored, dtype))
        else:
            model.set_submodule(layer, kept)
    setattr(model, STORED_IN, component)
    return model.eval()


def load_encoder(kind: Any, encoder: TextEncoder, dtype: torch.dtype) -> tuple[Any, dict[str, Any]]:
    """The text encoder in one file as the class `kind` of transformers, and what its loader says of keys."""
    of_config = Gemma4UnifiedConfig if encoder.config["model_type"] == "gemma4_unified" else Gemma3Config
    config = of_config.from_dict(dict(encoder.config))
    tensors = StoredTensors()
    state = {name: tensors.read(stored, dtype) for name, stored in encoder.tensors.items()}
    if of_config is Gemma4UnifiedConfig:
        config.vision_config = config.audio_config = None  # prompts are text
    options = {"config": config, "state_dict": state, "dtype": dtype, "key_mapping": kind.key_mapping}
    model, info = kind.from_pretrained(None, output_loading_info=True, use_safetensors=True, **options)
    return model, info


def load_tokenizer(encoder: TextEncoder) -> Any:
    """The tokenizer of a text encoder, from its folder or from the files that its file contains."""
    if encoder.tokenizer is not None:
        return GemmaTokenizer.from_pretrained(encoder.tokenizer)
    if missing := {TOKENIZER, TOKENIZER_CONFIG} - encoder.assets.keys():
        raise CheckpointError(f"{encoder.source} has no {' and no '.join(sorted(missing))} in it")
    with tempfile.TemporaryDirectory() as folder:
        for name, stored in encoder.assets.items():
            Path(folder, name).write_bytes(stored.read())
        return GemmaTokenizer.from_pretrained(folder)


def _may_keep(model: nn.Module, name: str, stored: Stored) -> bool:
    layer, _, leaf = name.rpartition(".")
    quantized = is_blocks(stored) or stored.dtype == FLOAT8
    return quantized and leaf == "weight" and type(model.get_submodule(layer)) is nn.Linear


def _set(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Put `tensor` in place of a parameter or buffer, without a copy."""
    module, _, leaf = name.rpartition(".")
    owner = model.get_submodule(module)
    if leaf in owner._parameters:
        owner._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)
    else:
        owner._buffers[leaf] = tensor
