"""How the tensors of a file are quantized, as its header says, and what longtake can read of it.

Three conventions put one float32 factor next to a float8 weight: `weight_scale` (the authors'), `scale_weight` with a
tensor `scaled_fp8` (ComfyUI until 2025), and `weight_scale` with a `comfy_quant` per layer or a
`_quantization_metadata` in the header (ComfyUI since). Scales of the input are not needed: inputs are scaled per token.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from ltx2.checkpoints.formats.weight_files import Header, StoredTensor, summary
from ltx2.errors import CheckpointError, UnsupportedModelError

FLOATS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}
"""The dtypes of weights that are read."""
SCALES = ("weight_scale", "scale_weight")
_DROPPED = ("input_scale", "scale_input", "comfy_quant", "scaled_fp8")
_FORMATS = {"float8_e4m3fn", "float8_e5m2"}
BITSANDBYTES = "bitsandbytes"
_BLOCK_SCALES = {"F8_E8M0", "U8"}
"""The dtypes of the scales of blocks in MXFP8: exponents."""
_METADATA = "_quantization_metadata"
UNREADABLE = ("NVFP4", "MXFP8", "int8", BITSANDBYTES)
"""The forms, as `form_of` names them, of weights that are not read."""


def weights_of(path: str, header: Header, read: Callable[[StoredTensor], bytes]) -> dict[str, str | None]:
    """The names of the weights in a file, each with the name of its scale; None is a scale of 1.

    read: gives the bytes of a small tensor.

    Raises:
        UnsupportedModelError: weights in int8, NVFP4 or another form; names it.
        CheckpointError: the scale of a weight is missing, or what says its form cannot be read.
    """
    tensors = header.tensors
    if form := refused_form(path, header, read):
        raise UnsupportedModelError(unreadable(path, form))
    ends = {name: name.rpartition(".")[2] for name in tensors}
    scales = {name for name, end in ends.items() if end in SCALES}
    found: dict[str, str | None] = {}
    for name, tensor in tensors.items():
        if name in scales or ends[name] in _DROPPED or (tensor.dtype == "U8" and len(tensor.shape) < 2):
            continue  # the last are files and settings that are stored as tensors
        if tensor.dtype not in FLOATS:
            raise UnsupportedModelError(f"{path} stores {name:.200} as {tensor.dtype}; longtake reads {sorted(FLOATS)}")
        found[name] = None
        layer = name.rpartition(".")[0]
        weight = tensors.get(f"{layer.removesuffix('.weight')}.weight")
        if "scale" in ends[name] and weight is not None and weight.dtype.startswith("F8"):
            raise UnsupportedModelError(
                f"{path} has float8 weights with {name:.200}; longtake reads {' and '.join(SCALES)}"
            )
        scale = next((f"{layer}.{end}" for end in SCALES if f"{layer}.{end}" in scales), None)
        if ends[name] != "weight" or not tensor.dtype.startswith("F8"):
            continue
        if scale is None and scales:
            raise CheckpointError(f"{path} has no scale for {name:.200}, but scales for others: download it again")
        if scale is not None and math.prod(tensors[scale].shape) not in (1, tensor.shape[0]):
            raise UnsupportedModelError(
                f"{path} has scales {list(tensors[scale].shape)} for {name:.200} {list(tensor.shape)}; longtake reads "
                "one, or one for each row"
            )
        found[name] = scale
    return found


def form_of(header: Header) -> str:
    """The form of quantized weights; "" if they are not, or only stored in a small dtype."""
    ends = {name.rpartition(".")[2] for name in header.tensors}
    if "weight_scale_2" in ends:
        return "NVFP4"
    if any(end.startswith(BITSANDBYTES) for end in ends):
        return BITSANDBYTES
    if any(name.endswith("weight_scale") and one.dtype in _BLOCK_SCALES for name, one in header.tensors.items()):
        return "MXFP8"
    if any(tensor.dtype == "I8" for tensor in header.tensors.values()):
        return "int8"
    if "comfy_quant" in ends or _METADATA in header.metadata:
        return "quantized for ComfyUI"
    if ends & {"scaled_fp8", "scale_weight"}:
        return "fp8, scaled for ComfyUI"
    return "fp8, scaled" if "weight_scale" in ends else ""


def refuse_form(path: str, form: str) -> None:
    """Refuse weights in `form`, if it is one of UNREADABLE. path: of the file, for the error."""
    if form in UNREADABLE:
        raise UnsupportedModelError(unreadable(path, form))


def unreadable(path: str, form: str) -> str:
    """Why the weights of the file `path`, in a form that is not read, cannot be used."""
    rotated = ", whose weights are rotated, too" if "convrot" in form else ""
    return f"{path} has weights in {form:.100}{rotated}: longtake reads bf16, fp8 and GGUF; use such a file instead"


def refused_form(path: str, header: Header, read: Callable[[StoredTensor], bytes]) -> str:
    """The form of weights that are not read, as the file itself names it; "" if all are read. See `weights_of`."""
    forms = [form for form in _layer_forms(path, header, read).values() if form not in _FORMATS]
    form = form_of(header)
    return next(iter(forms), form if form in UNREADABLE else "")


def _layer_forms(path: str, header: Header, read: Callable[[StoredTensor], bytes]) -> Mapping[str, str]:
    """The formats of layers that ComfyUI quantized, by their names."""
    try:
        written = json.loads(header.metadata.get(_METADATA, "{}"))
        layers = written.get("layers", {}) if isinstance(written, dict) else written
        if not isinstance(layers, dict):
            raise ValueError("`layers` is not an object")
        found: dict[str, Any] = dict(layers)
        for name, tensor in header.tensors.items():
            if name.endswith(".comfy_quant"):
                found[name.removesuffix(".comfy_quant")] = json.loads(read(tensor))
        forms = {name: form.get("format") if isinstance(form, dict) else None for name, form in found.items()}
        if wrong := [name for name, form in forms.items() if not isinstance(form, str)]:
            raise ValueError(f"no `format` for {summary(wrong)}")
    except (ValueError, RecursionError) as exc:
        raise CheckpointError(f"{path}: what says how its weights are quantized cannot be read: {exc}") from exc
    return {name: str(form) for name, form in forms.items()}
