"""LTX-2.5 against 2.3 at full size on a GPU: one call of the transformer in fp8, in turn in one process.

    python -m benchmarks.versions [--size 768x512] [--rounds 15]

One after the other, the same version differs by 4 % from run to run: the power limit sets the clock. So each round
times every variant once. A third variant is 2.5 with a bias of zeros in the second product of the picture's
feed-forward, too, which has none: a library may choose other kernels for products with a bias.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import nn

from benchmarks import report
from benchmarks.full import full_pipeline
from benchmarks.segment import CUDA, captured, timed
from ltx2.acceleration.compile import compile_blocks, speed_up
from ltx2.checkpoints.resolve import default_cache
from ltx2.engine import Engine


def main() -> None:
    """Time all variants, and print the median of each and of its ratio to 2.3 in the same round."""
    parser = report.parser(__doc__ or "", "versions")
    parser.add_argument("--size", default="768x512", metavar="WxH")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks/versions.py needs a CUDA device")
    size = tuple(int(side) for side in options.size.split("x"))
    calls = {"2.3": transformer_call("2.3", size), "2.5": transformer_call("2.5", size)}
    calls["2.5, zeros as a second bias"] = transformer_call("2.5", size, zeros=True)
    took: dict[str, list[float]] = {name: [] for name in calls}
    with torch.inference_mode():
        for call in calls.values():
            timed(call, rounds=3)  # compiles, and warms up
        for _ in range(options.rounds):
            for name, call in calls.items():
                took[name].append(timed(call, rounds=1) * 1000)
    rows = [
        {
            "version": name,
            "ms": statistics.median(times),
            "least ms": min(times),
            "of 2.3": f"{statistics.median(one / two for one, two in zip(times, took['2.3'], strict=True)):.4f}",
        }
        for name, times in took.items()
    ]
    report.write("versions", rows, options.json, took=took)


def transformer_call(version: str, size: tuple[int, ...], *, zeros: bool = False) -> Callable[[], Any]:
    """The call of the accelerated transformer in a continuation, with the arguments of the pipeline."""
    pipeline = full_pipeline(CUDA, version=version)
    transformer = pipeline.transformer
    call = captured(Engine(pipeline), size)
    speed_up(transformer, float8=True, device=CUDA)
    for block in transformer.transformer_blocks if zeros else ():
        down = block.ff.down
        down.bias = nn.Parameter(torch.zeros(down.weight.shape[0], device=CUDA, dtype=torch.bfloat16), False)
    compile_blocks(transformer, "inductor", default_cache().parent / "kernels")
    torch.cuda.empty_cache()
    return partial(transformer, **call)


if __name__ == "__main__":
    main()
