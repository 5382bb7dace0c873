"""Building the components of a model in files: modules without memory, whose tensors are then those of the files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from ltx2.checkpoints.components import Component, Stored
from ltx2.checkpoints.formats.weight_files import check_loaded
from ltx2.model.weights.stored_tensors import StoredTensors, is_blocks

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
    fill(model, component.files[0], component.tensors, dtype, keep)
    setattr(model, STORED_IN, component)
    return model


def fill(model: Any, source: Path, found: Mapping[str, Stored], dtype: torch.dtype, keep: KeepQuantized | None) -> Any:
    """`model`, which has no memory, with the tensors `found`, one after the other; see `load_component`.

    source: for errors. found: by the names that they have in the model.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    check_loaded(
        source,
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
    return model.eval()


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
