"""The header of a LoRA file: which layers it changes, and what it must not contain. No tensors are read."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltx2.checkpoints.formats.weight_files import Header, read_header, read_json
from ltx2.checkpoints.loras.names import Layer, LayerNames, Role, is_dora, other_adapter, parse
from ltx2.errors import CheckpointError, UnsupportedModelError

IC_LORA_KEY = "reference_downscale_factor"
_IC_LORA_NAME = re.compile(r"(?<![a-z])ic[-_]?lora", re.IGNORECASE)
_DTYPES = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}
_ALPHA_DTYPES = _DTYPES | {"I64", "I32", "I16", "I8", "U8"}
_PEFT_FILE, _PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PEFT_METADATA = "lora_adapter_metadata"
_SHOWN = 3
_LARGEST_ALPHA = 1e9


@dataclass(frozen=True, slots=True)
class Factors:
    """The change of one layer: `up @ down`, times alpha / rank if there is an alpha, otherwise times `scale`.

    down, up, alpha: names of tensors in the file. shape: `[out, in]` of the product.
    """

    down: str
    up: str
    alpha: str | None
    rank: int
    shape: tuple[int, int]
    scale: float


def read_lora(file: Path) -> dict[str, Factors]:
    """The factors in `file`; raises as `factors_of`, also CheckpointError if it is missing or damaged."""
    return factors_of(file, read_header(file))


def factors_of(file: Path, header: Header) -> dict[str, Factors]:
    """The factors in `file` with this `header`, by the name that it has for their layer.

    Raises:
        UnsupportedModelError: a DoRA, another adapter, an IC-LoRA, or a file with other tensors than pairs of factors;
            names them.
        CheckpointError: its header has a config of peft that cannot be read.
    """
    _refuse_kinds(file, header)
    parts: dict[str, dict[Role, str]] = {}
    foreign = []
    for name in header.tensors:
        parsed = parse(name)
        if parsed is None or parsed[1] in parts.setdefault(parsed[0], {}):
            foreign.append(name)
        else:
            parts[parsed[0]][parsed[1]] = name
    if foreign or not parts:
        what = some(foreign) if foreign else "no tensors"
        raise UnsupportedModelError(f"the LoRA {file} has tensors that are not pairs of factors for LTX-2: {what}")
    if single := [layer for layer, names in parts.items() if not {Role.DOWN, Role.UP} <= names.keys()]:
        raise UnsupportedModelError(f"the LoRA {file} has only one factor of a pair for {some(single)}")
    configs = _peft_configs(file, header)
    return {layer: _factors(file, header, layer, names, configs) for layer, names in parts.items()}


def match(file: Path, factors: Mapping[str, Factors], shapes: Mapping[Layer, tuple[int, int]]) -> dict[Layer, Factors]:
    """The `factors` of `file` by the layer of a model that they change. shapes: `[out, in]` of the model's layers.

    Raises:
        UnsupportedModelError: a factor fits no layer, or two are for the same.
    """
    names = LayerNames(shapes)
    found = {written: names.layer(written) for written in factors}
    unfit = [
        written if layer is None else f"{written} {list(factors[written].shape)}, here {list(shapes[layer])}"
        for written, layer in found.items()
        if layer is None or factors[written].shape != shapes[layer]
    ]
    if unfit:
        raise UnsupportedModelError(
            f"the LoRA {file} is for another model; layers that do not fit this one: {len(unfit)} of {len(factors)} "
            f"({some(unfit)})"
        )
    matched = {layer: factors[written] for written, layer in found.items() if layer is not None}
    if len(matched) < len(found):
        twice = [written for written, layer in found.items() if layer and matched[layer] is not factors[written]]
        raise UnsupportedModelError(f"the LoRA {file} changes the same layer under two names: {some(twice)}")
    return matched


def sign_of_ic_lora(name: str, header: Header) -> str:
    """What tells that the file `name` is an IC-LoRA: its header, else its name; "" if neither does."""
    if IC_LORA_KEY in header.metadata:
        return f"its header has {IC_LORA_KEY}"
    return "its name says so" if _IC_LORA_NAME.search(name) else ""


def some(names: list[str]) -> str:
    """The first few of `names`, and the number of the others."""
    shown = ", ".join(f"{name:.200}" for name in names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown


def _refuse_kinds(file: Path, header: Header) -> None:
    if sign := sign_of_ic_lora(file.name, header):
        raise UnsupportedModelError(
            f"{file} is an IC-LoRA ({sign}), which longtake does not support: it needs a reference video"
        )
    if dora := [name for name in header.tensors if is_dora(name)]:
        raise UnsupportedModelError(f"{file} is a DoRA, which longtake does not support: it has {some(dora)}")
    for name in header.tensors:
        if (kind := other_adapter(name)) is not None:
            what = f"an {kind}" if kind.startswith("O") else f"a {kind}"
            raise UnsupportedModelError(f"{file} is {what}, which longtake does not support: it has {name:.200}")


def _factors(
    file: Path, header: Header, layer: str, names: Mapping[Role, str], configs: Mapping[str, Mapping[str, Any]]
) -> Factors:
    stored = {role: header.tensors[name] for role, name in names.items()}
    if wrong := [
        f"{names[role]} as {one.dtype}"
        for role, one in stored.items()
        if one.dtype not in (_ALPHA_DTYPES if role is Role.ALPHA else _DTYPES)
    ]:
        raise UnsupportedModelError(f"the LoRA {file} stores {some(wrong)}; it must be one of {sorted(_DTYPES)}")
    down, up = stored[Role.DOWN].shape, stored[Role.UP].shape
    if len(down) != 2 or len(up) != 2 or down[0] != up[1] or 0 in down + up:
        raise UnsupportedModelError(f"the LoRA {file} has factors that do not fit: {layer} {list(up)} and {list(down)}")
    if Role.ALPHA in stored and math.prod(stored[Role.ALPHA].shape) != 1:
        raise UnsupportedModelError(f"the LoRA {file} has an alpha that is not a number: {names[Role.ALPHA]}")
    scale = _peft_scale(file, layer, down[0], configs)
    return Factors(names[Role.DOWN], names[Role.UP], names.get(Role.ALPHA), down[0], (up[0], down[1]), scale)


def _peft_configs(file: Path, header: Header) -> dict[str, Mapping[str, Any]]:
    """peft's configs for this file, by the prefix of the layers that each is for.

    diffusers writes one into the header, with the component before each key. peft writes one into a file of its own.
    """
    config: dict[str, Any] = {}
    if file.name == _PEFT_FILE and (config_file := file.with_name(_PEFT_CONFIG)).is_file():
        config = {"": read_json(config_file)}
    if _PEFT_METADATA in header.metadata:
        try:
            for key, value in json.loads(header.metadata[_PEFT_METADATA]).items():
                component, _, name = key.partition(".")
                config.setdefault(f"{component}.", {})[name] = value
        except (ValueError, TypeError, AttributeError, RecursionError) as exc:
            raise CheckpointError(f"{file}: {_PEFT_METADATA} in its header cannot be read: {exc}") from exc
    if any(one.get("use_dora") for one in config.values()):
        raise UnsupportedModelError(f"{file} is a DoRA, which longtake does not support: its config has use_dora")
    return config


def _peft_scale(file: Path, layer: str, rank: int, configs: Mapping[str, Mapping[str, Any]]) -> float:
    """alpha / rank by peft's config of the layer, or alpha / sqrt(rank) with rank-stabilised LoRA; 1 without one."""
    config = next((config for prefix, config in configs.items() if layer.startswith(prefix)), {})
    patterns = config.get("alpha_pattern")
    if not isinstance(patterns, dict):
        patterns = {}
    alpha = next(
        (value for key, value in patterns.items() if re.fullmatch(rf"(.*\.)?({re.escape(key)})", layer)),
        config.get("lora_alpha"),
    )
    if alpha is None:
        return 1.0
    if type(alpha) not in (int, float) or not abs(alpha) <= _LARGEST_ALPHA:
        raise UnsupportedModelError(f"{file} has a lora_alpha that is not a usable number for {layer:.200}")
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)
