"""Fusing LoRAs into the weights of a loaded pipeline."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ltx2.checkpoints.lora import Lora
from ltx2.checkpoints.weight_files import Shapes, summary, tensor_shapes
from ltx2.errors import CheckpointError, EngineMemoryError
from ltx2.model.pipeline import LongtakePipeline

_FACTOR = re.compile(r"(transformer|connectors)\.(.+)\.lora_([AB])\.weight")


def fuse(pipeline: LongtakePipeline, lora: Lora, file: Path) -> None:
    """Add `lora.weight` times the change in `file` to the weights of `pipeline`, in place.

    The file may have the format of diffusers or that of the model's authors.

    Raises:
        CheckpointError: the file cannot be read, or has factors for layers that this model does not have.
        EngineMemoryError: it does not fit into memory.
    """
    import torch
    from safetensors import SafetensorError

    try:
        _check_fit(pipeline, lora, tensor_shapes(file))
        pipeline.load_lora_weights(file.parent, weight_name=file.name, use_safetensors=True, local_files_only=True)
        pipeline.fuse_lora(components=["transformer", "connectors"], lora_scale=lora.weight)
        pipeline.unload_lora_weights()
    except (torch.OutOfMemoryError, MemoryError) as exc:
        raise EngineMemoryError(f"the LoRA {lora.path} does not fit into memory: {exc}") from exc
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as exc:
        raise CheckpointError(f"cannot use the LoRA {lora.path}: {exc}") from exc


def _check_fit(pipeline: LongtakePipeline, lora: Lora, shapes: Shapes) -> None:
    """Check that every pair of factors has a layer: diffusers drops the others, with a warning at most."""
    import torch

    tensors: dict[str, Any] = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    pairs: dict[tuple[str, str], Shapes] = {}
    for name, tensor in pipeline.lora_state_dict(tensors).items():  # drops unknown tensors
        if factor := _FACTOR.fullmatch(name):
            pairs.setdefault((factor[1], factor[2]), {})[factor[3]] = tuple(tensor.shape)
    if not pairs or sum(map(len, pairs.values())) < len(tensors):
        raise CheckpointError(f"the LoRA {lora.path} has tensors that are not pairs of factors for LTX-2")
    unfit = [".".join(place) for place, pair in pairs.items() if not _fits(pipeline, place, pair)]
    if unfit:
        raise CheckpointError(
            f"the LoRA {lora.path} is for another model: {len(unfit)} of its {len(pairs)} layers do not fit this one "
            f"({summary(unfit)})"
        )


def _fits(pipeline: LongtakePipeline, place: tuple[str, str], pair: Shapes) -> bool:
    """Whether B `[out, rank]` times A `[rank, in]` has the shape of the layer's weight `[out, in]`."""
    component, name = place
    weight = dict(getattr(pipeline, component).named_parameters()).get(f"{name}.weight")
    down, up = pair.get("A", ()), pair.get("B", ())
    return weight is not None and len(down) == len(up) == 2 and down[0] == up[1] and weight.shape == (up[0], down[1])
