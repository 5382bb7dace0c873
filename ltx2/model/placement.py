"""Where a pipeline computes, how exactly, and where its weights wait."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.hooks import apply_group_offloading

from ltx2.errors import EngineMemoryError

PRECISIONS = {"bf16": torch.bfloat16, "fp8": torch.bfloat16, "fp32": torch.float32}
"""The dtype of everything that is not quantized."""
OFFLOADS = ("none", "model", "sequential")
FLOAT8_CAPABILITY = (8, 9)

_RESIDENT = ("vae", "audio_vae", "vocoder")
"""What stays on the device when weights come block by block: together 2 GB at full size."""


def device_of(name: str) -> torch.device:
    """The device that `name` (auto, cpu, cuda or cuda:N) means; auto: cuda where there is one.

    Raises ValueError for another name, and for cuda where there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device is {name!r}; it must be auto, cpu or cuda[:number]") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {name!r}, but torch {torch.__version__} finds no CUDA device here")
    return device


def precision_of(name: str, device: torch.device) -> str:
    """bf16, fp8 or fp32; auto: bf16 on a GPU, fp32 on the CPU.

    Raises ValueError for another name, and for fp8 on a GPU that has none.
    """
    if name == "auto":
        name = "bf16" if device.type == "cuda" else "fp32"
    if name not in PRECISIONS:
        raise ValueError(f"precision is {name!r}; it must be auto or one of {', '.join(PRECISIONS)}")
    if name == "fp8" and device.type == "cuda" and torch.cuda.get_device_capability(device) < FLOAT8_CAPABILITY:
        card = torch.cuda.get_device_name(device)
        raise ValueError(f"precision is fp8, but {card} has no float8 (compute capability 8.9 and up have)")
    return name


def place(pipeline: Any, device: torch.device, offload: str) -> None:
    """Put a pipeline's weights where `offload` wants them; it computes on `device` in any case.

    none: all on the device. model: in main memory, each component on the device while it works. sequential: the same,
    but for the transformer and what encodes prompts, of which only the layers at work and the next ones are there. Both
    decode pictures in tiles, so that large ones fit, too. Raises ValueError for another name, EngineMemoryError when
    they do not fit.
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
    for name in _RESIDENT:
        getattr(pipeline, name).to(device)
    streamed = {"onload_device": device, "use_stream": True}
    apply_group_offloading(pipeline.transformer, offload_type="block_level", num_blocks_per_group=1, **streamed)
    for encoder in (pipeline.text_encoder, pipeline.connectors):  # their blocks lie too deep
        apply_group_offloading(encoder, offload_type="leaf_level", **streamed)
