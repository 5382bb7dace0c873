"""Self-attention in float8 through cuDNN: on Hopper and later GPUs, up to twice the rate of bfloat16.

Queries, keys, values and probabilities are e4m3, each with one scale per tensor. Sums and the softmax are float32. The
scale of queries and keys follows from the weights of their norm, so they are converted where they are normalised and
rotated. The scale of values is that of their largest magnitude. The result is a mean of values, so it has their scale.
No scale depends on an earlier call: the same input gives the same bytes.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, library, nn

from ltx2.acceleration.fp8 import FLOAT8, LARGEST, to_float8
from ltx2.errors import DeviceError
from ltx2.extras import install_line

CAPABILITY = (9, 0)
CHANNELS_STEP = 16
PACKAGE = "nvidia-cudnn-frontend"


class Attention(StrEnum):
    """How the picture's self-attention is computed."""

    BF16 = "bf16"
    """In the dtype of the model, like all other attention."""
    FP8 = "fp8"


def attention_of(name: str, device: torch.device, precision: str, channels: int) -> Attention:
    """The attention that `name` (auto, bf16 or fp8) means. auto: fp8 with fp8 weights where it is there, else bf16.

    channels: of one head of the picture's self-attention.

    Raises:
        ValueError: another name. DeviceError: fp8 where it is not there.
    """
    if name == "auto":
        return Attention.FP8 if precision == "fp8" and why_not(device, channels) is None else Attention.BF16
    if name not in list(Attention):
        raise ValueError(f"attention is {name!r}; it must be auto or one of {', '.join(Attention)}")
    if name == Attention.FP8 and (problem := why_not(device, channels)) is not None:
        raise DeviceError("attention", f"fp8, {problem}")
    return Attention(name)


def why_not(device: torch.device, channels: int) -> str | None:
    """What float8 attention lacks here, as the end of a sentence; None if it works."""
    if device.type != "cuda":
        return f"which needs a GPU, but the device is {device.type}"
    if torch.cuda.get_device_capability(device) < CAPABILITY:
        card = torch.cuda.get_device_name(device)
        return f"but {card} does not have it (it needs Hopper or later, compute capability 9.0)"
    if channels % CHANNELS_STEP:
        return f"but the model's heads have {channels} channels, not a multiple of {CHANNELS_STEP}"
    if importlib.util.find_spec("cudnn") is None:
        return f"which needs {PACKAGE}: {install_line('fp8-attention')}"
    try:
        _plan(1, 2 * CHANNELS_STEP, 1, channels, device)
    except Exception as error:  # of any class: it has its own for each step
        return f"but this host's cuDNN cannot compute it: {' '.join(str(error).split()):.200}"
    return None


def attend_float8(query: Tensor, key: Tensor, value: Tensor, norm_query: nn.Module, norm_key: nn.Module) -> Tensor:
    """Attention without a mask: `[B, T, H, D]` each, and the result, which has the dtype of `value`.

    query and key were normalised over all heads by these norms, and rotated since.
    """
    query, query_step = to_float8(query, largest_normalised(norm_query, query))
    key, key_step = to_float8(key, largest_normalised(norm_key, key))
    values, value_step = to_float8(value, value.abs().amax().float())
    result: Tensor = float8_attention(query, key, values, query_step, key_step, value_step, value_step.reciprocal())
    return (result.float() * value_step).to(value.dtype)


def largest_normalised(norm: Any, x: Tensor) -> Tensor:
    """A bound, float32 `[]`, of what an RMS norm of n channels gives: sqrt(n) times its largest weight.

    It is reached where one channel has all of a row's energy. Rotations keep it, as they keep the norm of each pair.
    """
    bound = math.sqrt(norm.normalized_shape[0])
    if norm.weight is None:
        return torch.full((), bound, device=x.device)
    largest: Tensor = norm.weight.abs().amax().float() * bound
    return largest


@library.custom_op("longtake::float8_attention", mutates_args=(), device_types="cuda")
def float8_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_step: Tensor,
    key_step: Tensor,
    value_step: Tensor,
    result_scale: Tensor,
) -> Tensor:
    """Attention of float8 `[B, T, H, D]`, also as a result.

    query_step, key_step, value_step: float32 `[]`, by which these are to be multiplied. result_scale: by which the
    result is multiplied before it is rounded.
    """
    inputs = [part.contiguous() for part in (query, key, value)]
    steps = [query_step, key_step, value_step, result_scale]
    return _plan(*query.shape, query.device)(inputs, steps)


@float8_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, *_: Tensor) -> Tensor:
    return torch.empty_like(value, memory_format=torch.contiguous_format)


@float8_attention.register_kernel("cpu")
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_step: Tensor,
    key_step: Tensor,
    value_step: Tensor,
    result_scale: Tensor,
) -> Tensor:
    """The same arithmetic, to measure on a CPU what it does to a model."""
    queries, keys, values = (part.float().transpose(1, 2) for part in (query, key, value))
    scores = queries @ keys.transpose(2, 3) * (query_step * key_step * query.shape[3] ** -0.5)
    weights = (scores - scores.amax(dim=3, keepdim=True)).exp()
    rounded = (weights * LARGEST).to(FLOAT8).float() / LARGEST
    mean = rounded @ values / weights.sum(dim=3, keepdim=True)
    result: Tensor = (mean * (value_step * result_scale)).to(FLOAT8)
    return result.transpose(1, 2).contiguous()


class _Plan:
    """A kernel of cuDNN for one shape, chosen by its heuristics, so the same on all GPUs of a kind."""

    _INPUTS = (1, 2, 3)
    _STEPS = (4, 5, 6, 7)
    _PROBABILITY_SCALE, _PROBABILITY_STEP = 8, 9
    _RESULT, _LARGEST = 10, (11, 12)

    def __init__(self, batch: int, tokens: int, heads: int, channels: int, device: torch.device) -> None:
        import cudnn  # after torch, whose cuDNN it then uses

        types, self._device, self._cudnn = cudnn.data_type, device, cudnn
        size, strides = (batch, heads, tokens, channels), (tokens * heads * channels, channels, heads * channels, 1)
        self._handle = _handle(device)
        graph = cudnn.pygraph(
            io_data_type=types.FP8_E4M3,
            intermediate_data_type=types.FLOAT,
            compute_data_type=types.FLOAT,
            handle=self._handle,
        )
        query, key, value = (
            graph.tensor(dim=size, stride=strides, data_type=types.FP8_E4M3, uid=uid) for uid in self._INPUTS
        )
        one = (1, 1, 1, 1)
        scalars = [
            graph.tensor(dim=one, stride=one, data_type=types.FLOAT, uid=uid)
            for uid in (*self._STEPS, self._PROBABILITY_SCALE, self._PROBABILITY_STEP)
        ]
        result, _, *largest = graph.sdpa_fp8(
            q=query,
            k=key,
            v=value,
            descale_q=scalars[0],
            descale_k=scalars[1],
            descale_v=scalars[2],
            descale_s=scalars[5],
            scale_s=scalars[4],
            scale_o=scalars[3],
            generate_stats=False,
            attn_scale=channels**-0.5,
        )
        result.set_uid(self._RESULT).set_output(True).set_dim(list(size)).set_stride(list(strides))
        result.set_data_type(types.FP8_E4M3)
        for uid, magnitude in zip(self._LARGEST, largest, strict=True):  # not read, but of cuDNN's own kernels alone
            magnitude.set_uid(uid).set_output(True).set_dim(list(one)).set_stride(list(one)).set_data_type(types.FLOAT)
        with torch.cuda.device(device):
            graph.validate()
            graph.build_operation_graph()
            graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
            graph.check_support()
            graph.build_plans()
        self._graph, self._workspace = graph, max(1, int(graph.get_workspace_size()))
        self._probabilities = torch.tensor([LARGEST, 1 / LARGEST], device=device)

    def __call__(self, inputs: list[Tensor], steps: list[Tensor]) -> Tensor:
        """Launch it on the current stream."""
        result, unread = torch.empty_like(inputs[2]), torch.empty(2, device=self._device)
        used = {
            **dict(zip(self._INPUTS, inputs, strict=True)),
            **dict(zip(self._STEPS, steps, strict=True)),
            self._PROBABILITY_SCALE: self._probabilities[:1],
            self._PROBABILITY_STEP: self._probabilities[1:],
            self._RESULT: result,
            **dict(zip(self._LARGEST, (unread[:1], unread[1:]), strict=True)),
        }
        workspace = torch.empty(self._workspace, dtype=torch.uint8, device=self._device)
        with torch.cuda.device(self._device):
            self._cudnn.set_stream(self._handle, torch.cuda.current_stream().cuda_stream)
            addresses = {uid: tensor.data_ptr() for uid, tensor in used.items()}
            self._graph.execute(addresses, workspace, handle=self._handle)
        return result


_plan = functools.cache(_Plan)


@functools.cache
def _handle(device: torch.device) -> Any:
    import cudnn

    with torch.cuda.device(device):
        return cudnn.create_handle()
