"""The one place that decides what a spec may name: small models, names on the hub, and files in allowed folders."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from ltx2.checkpoints.full_weights import split_full
from ltx2.checkpoints.hub_names import parse_hub_name
from ltx2.checkpoints.loras.lora import Lora
from ltx2.checkpoints.resolve import SMALL_MODELS
from tasks.errors import SpecError
from tasks.field_errors import field_path, shown_path
from tasks.settings import Settings
from tasks.spec.head import LoraSpec
from tasks.spec.places import SpecSource
from tasks.spec.schema import JobSpec

MOST_FILES = 10_000
"""A folder with more files is none of a model."""


def check_model_folders(
    model: str,
    loras: Iterable[LoraSpec | Lora],
    settings: Settings,
    more: Mapping[str, str] = MappingProxyType({}),
    source: SpecSource | None = None,
) -> None:
    """Refuse models, LoRAs and other parts outside LONGTAKE_MODEL_FOLDERS. LONGTAKE_MODEL is always allowed.

    more: what else the spec names, by field.

    source: where the spec was written, for its lines in errors.

    Raises:
        SpecError: names the field and the setting.
    """
    if settings.model_folders is None:
        return
    name, _ = split_full(model)
    place = source.place if source else _dotted
    named = _named_parts(place, loras, more)
    if name not in (settings.model, *SMALL_MODELS) and not _is_default(os.path.expanduser(name), settings):
        named = {place("model"): name, **named}
    check_sources(named, settings)


def _is_default(path: str, settings: Settings) -> bool:
    """Whether `path` is LONGTAKE_MODEL. Only what exists is resolved: a worker may outlive its working directory."""
    default = os.path.expanduser(split_full(settings.model)[0])
    return os.path.lexists(path.replace("\0", "")) and os.path.lexists(default) and _real(path) == _real(default)


def not_here(spec: JobSpec, settings: Settings) -> list[str]:
    """A warning for each model and other part of a spec that is a path with nothing there: it may be misspelt.

    Workers may have it. Names on the hub and small models are no paths.
    """
    model, place = split_full(spec.model or settings.model)[0], spec.source.place
    named = {place("model") if spec.model else "LONGTAKE_MODEL": model}
    named |= _named_parts(place, spec.loras, spec.more_files)
    return [
        f"{field}: {shown_path(name)} is not on this machine; the job fails unless its workers have it"
        for field, name in named.items()
        if name not in SMALL_MODELS and parse_hub_name(name) is None and not os.path.lexists(os.path.expanduser(name))
    ]


def _named_parts(
    place: Callable[..., str], loras: Iterable[LoraSpec | Lora], more: Mapping[str, str]
) -> dict[str, str]:
    """The paths of LoRAs and of what else a spec names, by the place of each in the spec."""
    named = {place("loras", index, "path"): lora.path for index, lora in enumerate(loras)}
    return named | {place(*field.split(".")): path for field, path in more.items()}


def check_sources(named: Mapping[str, str], settings: Settings) -> None:
    """Refuse what specs must not name. named: files, folders and hub names, by the field that names them.

    What is not a name on the hub is a path. It must lie in a folder of LONGTAKE_MODEL_FOLDERS once links are resolved,
    and so must every file of a folder; these may also be links into the hub's cache.

    Raises:
        SpecError: names the field and the setting.
    """
    if settings.model_folders is None:
        return
    allowed = [_real(folder) for folder in settings.model_folders.split(os.pathsep)]
    for field, name in named.items():
        path = os.path.expanduser(name).replace("\0", "")
        if parse_hub_name(name) is not None and not os.path.lexists(path):
            continue
        if not _is_in(path, allowed):
            raise SpecError(f"{field}: '{shown_path(name)}' is not in a folder that LONGTAKE_MODEL_FOLDERS allows")
        for link in _links(path):
            if not _is_in(link, [*allowed, _hub_cache()]):
                raise SpecError(
                    f"{field}: '{shown_path(name)}' has the link {shown_path(os.path.relpath(link, path))}, which "
                    "leads out of the folders that LONGTAKE_MODEL_FOLDERS allows"
                )


def _dotted(*location: str | int) -> str:
    return field_path(location)


def _links(folder: str) -> Iterator[str]:
    """The links in `folder` and its sub-folders."""
    seen = 0
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            seen += 1
            if seen > MOST_FILES:
                raise SpecError(f"{shown_path(folder)} has more than {MOST_FILES:,} files, so it is not a model")
            if os.path.islink(path := os.path.join(place, name)):
                yield path


def _hub_cache() -> Path:
    from huggingface_hub import constants  # slow to import

    return _real(constants.HF_HUB_CACHE)


def _is_in(path: str, folders: Iterable[Path]) -> bool:
    real = _real(path)
    return any(real.is_relative_to(folder) for folder in folders)


def _real(path: str) -> Path:
    return Path(os.path.realpath(path.replace("\0", "")))
