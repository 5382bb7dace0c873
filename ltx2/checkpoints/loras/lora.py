"""LoRAs: small changes of a transformer's weights, added when a model is loaded."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ltx2.checkpoints.formats.weight_files import has_suffix, summary
from ltx2.checkpoints.hub_names import HubName, parse_hub_name
from ltx2.checkpoints.loras.file import read_lora
from ltx2.errors import CheckpointError

SUFFIX = ".safetensors"


@dataclass(frozen=True, slots=True)
class Lora:
    """One LoRA. path: see `resolve_lora`. weight: LoRA strength; 0 leaves the model unchanged."""

    path: str
    weight: float = 1.0


def resolve_lora(path: str) -> Path | HubName:
    """The file or hub id that `path` names: a .safetensors file, a folder with one, `owner/name[@revision][:file]`.

    Raises:
        CheckpointError: `path` is none of these, or the file is damaged. UnsupportedModelError: see `read_lora`.
    """
    local = os.path.expanduser(path)
    if os.path.isdir(local):
        local = os.path.join(local, single_weights_file(local, os.listdir(local)))
    if os.path.isfile(local):
        if not has_suffix(local, (SUFFIX,)):
            raise CheckpointError(f"a LoRA must be a {SUFFIX} file, not {path:.200}")
        read_lora(Path(local))
        return Path(local)
    found = hub_file(path)
    if found is None:
        raise CheckpointError(
            f"no such LoRA: {path:.200} (must be a {SUFFIX} file, a folder with one, or a hub id "
            f"owner/name[@revision][:file{SUFFIX}])"
        )
    return found


def hub_file(path: str) -> HubName | None:
    """What `path` names on the hub, a repository or a file of weights; None if it is no such name."""
    found = parse_hub_name(path)
    return found if found is not None and has_suffix(found.file or SUFFIX, (SUFFIX,)) else None


def stamp_of(path: str) -> tuple[int, int] | None:
    """Size and modification time (ns) of a LoRA's file, which tell whether it was replaced; None for one on the hub.

    Raises the errors of `resolve_lora`.
    """
    file = resolve_lora(path)
    return (file.stat().st_size, file.stat().st_mtime_ns) if isinstance(file, Path) else None


def single_weights_file(place: str, names: Iterable[str]) -> str:
    """The only .safetensors file among the file `names` in `place`; CheckpointError if there is not exactly one."""
    found = sorted(name for name in names if has_suffix(name, (SUFFIX,)))
    if len(found) != 1:
        content = f"{len(found)} {SUFFIX} files, {summary(found)}: name one of them" if found else f"no {SUFFIX} file"
        raise CheckpointError(f"{place:.200} has {content}")
    return found[0]
