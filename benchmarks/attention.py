"""Attention in float8 against bfloat16 on a GPU: one call of attention, and one of the full-size transformer.

    python -m benchmarks.attention [--sizes 768x512 1536x1024] [--version 2.3] [--parts kernel forward segment]

kernel: self-attention of the picture's tokens alone, with inputs as a norm gives them, the conversion compiled as in
the blocks. Off by: the relative difference from float32, for some of the queries. forward: the transformer's call in a
continuation, random weights, in bf16 and fp8, with each attention. Off by: the relative difference from the first row,
the larger of picture and sound. segment: from state to state, in fp8 with float8 attention. Nothing may be compiled
after the warm-up, and the same segment must have the same bytes again.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor, nn

from benchmarks import report
from benchmarks.full import full_pipeline
from benchmarks.segment import CUDA, SHAPE, Forward, Row, matmul_rates, recompile, segment_row, timed
from ltx2.acceleration.attention import attention
from ltx2.acceleration.compile import speed_up
from ltx2.acceleration.fp8 import quantize, to_float8
from ltx2.acceleration.fp8_attention import attend_float8, float8_attention, largest_normalised, why_not
from ltx2.engine import Engine
from ltx2.timeline import latent_frames

HEADS, CHANNELS = 32, 128
COMPARED = 256  # queries
ROUNDS = 20
UNSCALED = "fp8, without conversion"


def main() -> None:
    """Measure the parts in `--parts`."""
    parser = report.parser(__doc__ or "", "attention")
    parser.add_argument("--sizes", nargs="+", default=["768x512", "1536x1024"], metavar="WxH")
    parser.add_argument("--version", choices=["2.3", "2.5"], default="2.3")
    parser.add_argument("--parts", nargs="+", default=["kernel", "forward", "segment"])
    options = parser.parse_args()
    if not torch.cuda.is_available() or (problem := why_not(CUDA, CHANNELS)) is not None:
        sys.exit(f"attention in fp8, {problem}" if torch.cuda.is_available() else "this needs a CUDA device")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}")
    sizes = [tuple(int(side) for side in size.split("x")) for size in options.sizes]
    kernels: list[Row] = []
    if "kernel" in options.parts:
        kernels = [row for size in sizes for row in kernel_rows(size)]
        print(report.table(kernels), flush=True)
    forward, segments = measured(options.version, sizes, options.parts)
    report.write("attention", forward or kernels, options.json, kernels=kernels, segments=segments)


@torch.inference_mode()
def kernel_rows(size: tuple[int, ...]) -> list[Row]:
    """One row for each kind of attention at the number of tokens that a segment of this size has."""
    tokens = latent_frames(SHAPE.frames) * (size[0] // 32) * (size[1] // 32)
    torch.manual_seed(0)
    norm = nn.RMSNorm(HEADS * CHANNELS, device=CUDA, dtype=torch.bfloat16)
    # some channels are larger in every token, as those of trained models are: attention is not a mean of all values
    common = 2 * torch.randn(HEADS * CHANNELS, device=CUDA)
    query, key = (norm((torch.randn(1, tokens, HEADS * CHANNELS, device=CUDA) + common).bfloat16()) for _ in range(2))
    value = torch.randn(1, tokens, HEADS * CHANNELS, device=CUDA, dtype=torch.bfloat16)
    query, key, value = (part.view(1, tokens, HEADS, CHANNELS) for part in (query, key, value))
    exact = attention(*(part.float() for part in (query[:, :COMPARED], key, value)))
    quantized = [to_float8(part, largest_normalised(norm, part)) for part in (query, key)]
    quantized.append(to_float8(value, value.abs().amax().float()))
    parts, steps = [list(column) for column in zip(*quantized, strict=True)]
    compiled = torch.compile(attend_float8, fullgraph=True, dynamic=False)
    calls = {
        "bf16": lambda: attention(query, key, value),
        UNSCALED: lambda: float8_attention(*parts, *steps, steps[2].reciprocal()),
        "fp8": lambda: compiled(query, key, value, norm, norm),
    }
    rows = []
    for kind, call in calls.items():
        result, again = (call().float() * (steps[2] if kind == UNSCALED else 1) for _ in range(2))
        seconds = timed(call, ROUNDS)
        rows.append(
            {
                "attention": kind,
                "size": f"{size[0]}x{size[1]}",
                "tokens": tokens,
                "ms": seconds * 1000,
                "TFLOP/s": 4 * tokens**2 * HEADS * CHANNELS / seconds / 1e12,
                "off by": off(result[:, :COMPARED], exact),
                "same bytes again": bool((result == again).all()),
            }
        )
    return rows


def off(found: Tensor, right: Tensor) -> float:
    """The relative difference."""
    return float((found - right).norm() / right.norm())


def measured(version: str, sizes: list[tuple[int, ...]], parts: list[str]) -> tuple[list[Row], list[Row]]:
    """One row per size, precision and attention of the transformer's call, and one per size of a segment in fp8."""
    if not {"forward", "segment"} & set(parts):
        return [], []
    pipeline = full_pipeline(CUDA, version=version)
    blocks = pipeline.transformer.transformer_blocks
    forward = Forward(pipeline, sizes, matmul_rates()[0]) if "forward" in parts else None
    speed_up(pipeline.transformer, float8=False, device=CUDA)
    for precision in ("bf16", "fp8"):
        if precision == "fp8":
            for block in blocks:
                quantize(block, CUDA)
        for float8 in (False, True):
            for block in blocks:
                block.float8_attention = float8
            recompile(pipeline)
            if forward:
                forward.measure(f"{precision}, attention in {'fp8' if float8 else 'bf16'}")
    segments: list[dict[str, Any]] = []
    if "segment" in parts:
        segments = [segment_row(Engine(pipeline, graphs=True), "fp8, attention in fp8", size) for size in sizes[:1]]
    return forward.rows if forward else [], segments


if __name__ == "__main__":
    main()
