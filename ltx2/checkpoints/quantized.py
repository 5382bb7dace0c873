"""Refusing checkpoints whose weights another library has quantized, as their configs say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ltx2.errors import UnsupportedModelError

KEY = "quantization_config"
_LIBRARIES = {
    "awq": "AWQ",
    "bitsandbytes": "bitsandbytes",
    "bitsandbytes_4bit": "bitsandbytes",
    "bitsandbytes_8bit": "bitsandbytes",
    "compressed-tensors": "compressed-tensors",
    "fp8": "fp8",
    "gguf": "GGUF",
    "gptq": "GPTQ",
    "modelopt": "NVIDIA ModelOpt",
    "nunchaku": "Nunchaku",
    "quanto": "Quanto",
    "sdnq": "SDNQ",
    "sdnq_training": "SDNQ",
    "torchao": "torchao",
}


def library_of(config: Mapping[str, Any]) -> str | None:
    """The library that quantized the component with this `config`; None if it is not quantized."""
    quantization = config.get(KEY)
    if not quantization:
        return None
    if not isinstance(quantization, Mapping):
        return "an unknown library"
    method = str(quantization.get("quant_method") or "")
    if not method and any(key.startswith(("load_in_4bit", "load_in_8bit", "bnb_")) for key in quantization):
        method = "bitsandbytes"
    return _LIBRARIES.get(method.lower(), method[:50]) or "an unknown library"


def refuse_quantized(folder: Path, configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse a checkpoint with a quantized component. configs: by component.

    Raises:
        UnsupportedModelError: names the components and the library.
    """
    found = {name: library for name, config in configs.items() if (library := library_of(config))}
    if found:
        parts = ", ".join(f"{name}/ with {library}" for name, library in found.items())
        raise UnsupportedModelError(
            f"{folder} is quantized: {parts} ({KEY} in config.json). longtake loads weights that are not: use the "
            "repository that this one was made from; LONGTAKE_PRECISION=fp8 quantizes them while loading"
        )
