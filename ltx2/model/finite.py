"""Checks that values are finite, on the device that has them. NaN makes black pictures, infinity white ones."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ltx2.checkpoints.formats.weight_files import summary
from ltx2.checkpoints.loras.lora import Lora
from ltx2.errors import NotFiniteError, UnsupportedModelError


def all_finite(*tensors: Tensor) -> Tensor:
    """Whether all values of non-empty `tensors` are finite: a bool on their device, which is not waited for.

    Each is read once: NaN and infinity are always among the extremes.
    """
    return torch.stack([_extremes(tensor) for tensor in tensors]).isfinite().all()


def check_finite_weights(module: nn.Module, where: str) -> None:
    """Check all weights of a module, except quantized ones, whose scales tell; waits for its device, usually once.

    where: names the module in the error.

    Raises:
        UnsupportedModelError: a weight is not finite; names it.
    """
    weights = {
        name: tensor
        for name, tensor in module.state_dict().items()
        if tensor.is_floating_point() and tensor.itemsize > 1 and tensor.numel()
    }
    found = [_extremes(tensor) for tensor in weights.values()]
    found = [extremes.to(found[0].device) for extremes in found]  # a table of embeddings may be in main memory
    finite = torch.stack(found).isfinite().all(dim=1).tolist() if found else []
    if wrong := [name for name, is_finite in zip(weights, finite, strict=True) if not is_finite]:
        raise UnsupportedModelError(
            f"{where} has weights that are not finite (NaN or infinite): {summary(wrong)}; download it again, or use "
            "another model"
        )


@contextmanager
def naming_model(doing: str, model: str, loras: Collection[Lora]) -> Iterator[None]:
    """Name `model` with its `loras` in a NotFiniteError of this block. doing: begins the message."""
    try:
        yield
    except NotFiniteError as exc:
        names = ", ".join(f"{lora.path} (weight {lora.weight:g})" for lora in loras)
        named = f"{model} with the LoRAs {names}" if loras else f"{model} without LoRAs"
        raise NotFiniteError(f"{doing}: {exc}; they come from the model {named}") from exc


def _extremes(tensor: Tensor) -> Tensor:
    return torch.stack(tensor.detach().aminmax()).float()
