"""LoRAs: small changes of a transformer's weights, added to them once, when a model is loaded."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ltx2.checkpoints.resolve import HUB_ID
from ltx2.checkpoints.weight_files import some, tensor_shapes
from ltx2.errors import CheckpointError

SUFFIX = ".safetensors"


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
