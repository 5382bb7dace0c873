"""LoRAs: small changes of a transformer's weights, added to them once, when a model is loaded."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltx2.checkpoint import HUB_ID
from ltx2.errors import CheckpointError, EngineMemoryError
from ltx2.weights import Shapes, some, tensor_shapes

if TYPE_CHECKING:
    from ltx2.pipeline import LongtakePipeline

SUFFIX = ".safetensors"
_FACTOR = re.compile(r"(transformer|connectors)\.(.+)\.lora_([AB])\.weight")


@dataclass(frozen=True, slots=True)
class Lora:
    """One LoRA. path: see `resolve_lora`. weight: by what its change is multiplied; 0 leaves the model as it is."""

    path: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class HubLora:
    """A LoRA on the Hugging Face hub; `file` None stands for the only one there."""

    repository: str
    revision: str | None = None
    file: str | None = None


def resolve_lora(path: str) -> Path | HubLora:
    """The file or hub id that `path` names: a .safetensors file, a folder with one, `owner/name[@revision][:file]`.

    Raises CheckpointError for what is none of these, and for a file that is cut off.
    """
    local = os.path.expanduser(path)
    if os.path.isdir(local):
        local = os.path.join(local, only_weights(local, os.listdir(local)))
    if os.path.isfile(local):
        if not local.endswith(SUFFIX):
            raise CheckpointError(f"a LoRA is a {SUFFIX} file, and {path:.200} is none")
        tensor_shapes(Path(local))
        return Path(local)
    named, _, file = path.partition(":")
    outside = path.startswith(("/", ".", "~")) or ".." in file
    if outside or not re.fullmatch(HUB_ID, named) or not re.fullmatch(rf"([\w./-]+{re.escape(SUFFIX)})?", file):
        raise CheckpointError(
            f"no such LoRA: {path:.200} (a LoRA is a {SUFFIX} file, a folder with one, or a hub id "
            f"owner/name[@revision][:file{SUFFIX}])"
        )
    repository, _, revision = named.partition("@")
    return HubLora(repository, revision or None, file or None)


def only_weights(place: str, names: Iterable[str]) -> str:
    """The one .safetensors file among the `names` of files in `place`; raises CheckpointError unless there is one."""
    found = sorted(name for name in names if name.endswith(SUFFIX))
    if len(found) != 1:
        told = f"{len(found)} {SUFFIX} files, {some(found)}: name the one" if found else f"no {SUFFIX} file"
        raise CheckpointError(f"{place:.200} holds {told}")
    return found[0]


def fuse(pipeline: LongtakePipeline, lora: Lora, file: Path) -> None:
    """Add `weight` times the change in `file` to the weights of `pipeline`, where they lie.

    The file is as diffusers or the model's authors write it. Raises CheckpointError when it has factors for layers that
    this model has not, EngineMemoryError when it does not fit into memory.
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
    """Every pair of factors must have its layer: diffusers leaves out what has none, with a warning at most."""
    import torch

    tensors: dict[str, Any] = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    pairs: dict[tuple[str, str], Shapes] = {}
    for name, tensor in pipeline.lora_state_dict(tensors).items():  # leaves out what it does not know
        if factor := _FACTOR.fullmatch(name):
            pairs.setdefault((factor[1], factor[2]), {})[factor[3]] = tuple(tensor.shape)
    if not pairs or sum(map(len, pairs.values())) < len(tensors):
        raise CheckpointError(f"the LoRA {lora.path} holds other tensors than pairs of factors for LTX-2")
    unfit = [".".join(place) for place, pair in pairs.items() if not _fits(pipeline, place, pair)]
    if unfit:
        raise CheckpointError(
            f"the LoRA {lora.path} is for another model: {len(unfit)} of its {len(pairs)} layers do not fit this one "
            f"({some(unfit)})"
        )


def _fits(pipeline: LongtakePipeline, place: tuple[str, str], pair: Shapes) -> bool:
    """Whether B `[out, rank]` times A `[rank, in]` has the shape of the layer's weight `[out, in]`."""
    component, name = place
    weight = dict(getattr(pipeline, component).named_parameters()).get(f"{name}.weight")
    down, up = pair.get("A", ()), pair.get("B", ())
    return weight is not None and len(down) == len(up) == 2 and down[0] == up[1] and weight.shape == (up[0], down[1])
