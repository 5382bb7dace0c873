"""The arguments of engine calls as bytes without code: JSON for what is plain, safetensors for tensors and arrays."""

from __future__ import annotations

import json
import struct
from dataclasses import fields, is_dataclass
from enum import Enum
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from ltx2.checkpoints.loras.lora import Lora
from ltx2.request import Decoding, PinnedEnd, PlacedImage, SegmentRequest, VideoAfter
from ltx2.sampling import Decoder, Sampling, Scales, Shift
from ltx2.state.continuation import LTX2ContinuationState
from ltx2.timeline import SegmentShape, SegmentTiming

CLASSES: dict[str, type[Any]] = {
    known.__name__: known
    for known in (
        *(Decoding, LTX2ContinuationState, Lora, PinnedEnd, PlacedImage),
        *(Sampling, SegmentRequest, SegmentShape, SegmentTiming, VideoAfter),
    )
}
ENUMS: dict[str, type[Enum]] = {known.__name__: known for known in (Decoder, Shift)}
_LENGTH = struct.Struct(">Q")


def pack(value: Any) -> bytes:
    """`value` as bytes: numbers, texts, containers, arrays, tensors, and the dataclasses that engines are called with.

    Raises:
        TypeError: something else is in it.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_plain(value, tensors)).encode()
    return _LENGTH.pack(len(text)) + text + save(tensors)


def unpack(data: bytes) -> Any:
    """What `pack` was given; tensors and arrays have memory of their own."""
    (length,) = _LENGTH.unpack_from(data)
    begin = _LENGTH.size
    return _value(json.loads(data[begin : begin + length]), load(data[begin + length :]))


def _plain(value: Any, tensors: dict[str, Tensor]) -> Any:
    def each(values: Any) -> list[Any]:
        return [_plain(one, tensors) for one in values]

    def stored(tensor: Tensor) -> str:
        name = str(len(tensors))
        tensors[name] = tensor
        return name

    kind = type(value).__name__
    if isinstance(value, Enum) and kind in ENUMS:
        return {"enum": kind, "value": value.value}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Fraction):
        return {"fraction": str(value)}
    if isinstance(value, Tensor):
        return {"tensor": stored(value.detach().cpu().contiguous().clone())}  # the format rejects shared memory
    if isinstance(value, np.ndarray):
        return {"array": stored(torch.from_numpy(np.array(value, order="C")))}
    if isinstance(value, Scales):
        return {"scales": each(value)}
    if isinstance(value, tuple):
        return {"tuple": each(value)}
    if isinstance(value, list):
        return each(value)
    if isinstance(value, dict):
        return {"dict": each(value.items())}
    if is_dataclass(value) and kind in CLASSES:
        return {"class": kind, "fields": each(getattr(value, field.name) for field in fields(value))}
    raise TypeError(f"{kind} cannot be sent to the other ranks")


def _value(plain: Any, tensors: dict[str, Tensor]) -> Any:
    def each(values: Any) -> list[Any]:
        return [_value(one, tensors) for one in values]

    match plain:
        case {"enum": kind, "value": value}:
            return ENUMS[kind](value)
        case {"fraction": text}:
            return Fraction(text)
        case {"tensor": name}:
            return tensors[name]
        case {"array": name}:
            return tensors[name].numpy()
        case {"scales": values}:
            return Scales(*each(values))
        case {"tuple": values}:
            return tuple(each(values))
        case {"dict": items}:
            return dict(each(items))
        case {"class": kind, "fields": values}:
            return CLASSES[kind](*each(values))
        case list():
            return each(plain)
    return plain
