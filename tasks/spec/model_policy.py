"""The check that a spec names only models, LoRAs and parts of models in allowed folders."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from ltx2.checkpoints.full_weights import split_full
from ltx2.checkpoints.lora import Lora
from ltx2.checkpoints.resolve import SMALL_MODELS
from tasks.errors import SpecError
from tasks.settings import Settings
from tasks.spec.schema import LoraSpec


def check_model_folders(
    model: str, loras: Iterable[LoraSpec | Lora], settings: Settings, more: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Refuse models and LoRAs outside LONGTAKE_MODEL_FOLDERS.

    Links are resolved. LONGTAKE_MODEL is always allowed. more: what else the spec names, by field.

    Raises:
        SpecError: names the field and the setting.
    """
    name, _ = split_full(model)
    default = _real(os.path.expanduser(split_full(settings.model)[0]))
    if name not in (settings.model, *SMALL_MODELS) and _real(os.path.expanduser(name)) != default:
        _check_folder("model", name, settings)
    for index, lora in enumerate(loras):
        _check_folder(f"loras.{index}.path", lora.path, settings)
    for field, path in more.items():
        _check_folder(field, path, settings)


def _check_folder(field: str, named: str, settings: Settings) -> None:
    if settings.model_folders is None:
        return
    path = os.path.expanduser(named)
    if not os.path.exists(path) and not named.startswith(("/", ".", "~")):
        return  # a hub id
    allowed = settings.model_folders.split(os.pathsep)
    if not any(_real(path).is_relative_to(_real(folder)) for folder in allowed):
        raise SpecError(f"{field}: {named!r:.200} is not in a folder that LONGTAKE_MODEL_FOLDERS allows")


def _real(path: str) -> Path:
    return Path(os.path.realpath(path.replace("\0", "")))
