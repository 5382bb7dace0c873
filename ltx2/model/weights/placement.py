"""Device, precision and offloading of a pipeline."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.hooks import apply_group_offloading

from ltx2.errors import DeviceError, EngineMemoryError

PRECISIONS = {"bf16": torch.bfloat16, "fp8": torch.bfloat16, "fp32": torch.float32}
"""The dtype of everything that is not quantized."""
OFFLOADS = ("none", "model", "sequential")
FLOAT8_CAPABILITY = (8, 9)

_RESIDENT = ("vae", "audio_vae", "vocoder")
"""Components that stay on the device when others are offloaded by block: together 2 GB at full size."""


def device_of(name: str) -> torch.device:
    """The device that `name` (auto, cpu, cuda or cuda:N) means. auto: cuda if available, otherwise cpu.

    Raises:
        ValueError: another name. DeviceError: cuda where there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device is {name!r}; it must be auto, cpu or cuda[:number]") from None
    count = torch.cuda.device_count() if device.type == "cuda" and torch.cuda.is_available() else 0
    if device.type == "cuda" and not count:
        raise DeviceError("device", f"{name!r}, but torch {torch.__version__} finds no CUDA device here")
    if device.type == "cuda" and (device.index or 0) >= count:
        raise DeviceError("device", f"{name!r}, but this host has {count} CUDA devices, counted from 0")
    return device


def device_works(name: str) -> bool:
    """Whether the device `name` still computes. After a CUDA error it does not, until its process ends."""
    try:
        device = device_of(name)
        return bool(torch.ones(2, device=device).sum().item() == 2)
    except torch.OutOfMemoryError:
        return True
    except (RuntimeError, ValueError):
        return False


def computes_float8(device: torch.device) -> bool:
    """Whether this is a GPU with float8: Ada, Hopper or later."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= FLOAT8_CAPABILITY


def precision_of(name: str, device: torch.device) -> str:
    """The precision that `name` (auto, bf16, fp8 or fp32) means. auto: bf16 on a GPU, fp32 on the CPU.

    Raises:
        ValueError: another name. DeviceError: fp8 on a CPU, or on a GPU without float8.
    """
    if name == "auto":
        name = "bf16" if device.type == "cuda" else "fp32"
    if name not in PRECISIONS:
        raise ValueError(f"precision is {name!r}; it must be auto or one of {', '.join(PRECISIONS)}")
    if name == "fp8" and device.type != "cuda":
        raise DeviceError("precision", f"fp8, which needs a GPU, but the device is {device.type}")
    if name == "fp8" and not computes_float8(device):
        card = torch.cuda.get_device_name(device)
        raise DeviceError("precision", f"fp8, but {card} has no float8 (it needs compute capability 8.9)")
    return name


def place(pipeline: Any, device: torch.device, offload: str) -> None:
    """Place a pipeline's weights as `offload` says. It always computes on `device`.

    none: all weights on the device. model: weights in main memory, each component on the device while it runs.
    sequential: the transformer in main memory, with only the running and the next block on the device. model and
    sequential decode pictures in tiles, which lowers the peak for large ones. What encodes prompts is placed before,
    see `TextEncoder.placed`; if it is still in the pipeline, it is placed with the rest.

    Raises:
        ValueError: another name.
        EngineMemoryError: the weights do not fit on the device.
    """
    if offload not in OFFLOADS:
        raise ValueError(f"offload is {offload!r}; it must be one of {', '.join(OFFLOADS)}")
    try:
        if offload == "none" or device.type == "cpu":
            pipeline.to(device)
            return
        pipeline.vae.enable_tiling()
        if offload == "model":
            pipeline.enable_model_cpu_offload(device=device)
        else:
            _offload_blocks(pipeline, device)
    except torch.OutOfMemoryError as exc:
        raise EngineMemoryError(f"the model does not fit on {device} with offload {offload}: {exc}") from exc


def _offload_blocks(pipeline: Any, device: torch.device) -> None:
    for part in (*_RESIDENT, "text_encoder", "connectors"):
        if (component := getattr(pipeline, part)) is not None:
            component.to(device)
    apply_group_offloading(
        pipeline.transformer,
        onload_device=device,
        offload_type="block_level",
        num_blocks_per_group=1,
        use_stream=True,
    )
