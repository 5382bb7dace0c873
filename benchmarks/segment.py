"""One segment of full-size LTX-2.3 on a GPU: the transformer's forward, the segment around it, and memory.

    python benchmarks/segment.py [--sizes 768x512 1536x1024] [--parts forward segment memory]

Random weights (see benchmarks/full.py), 121 frames, a continuation, 8 distilled steps, unguided. forward: diffusers'
transformer eager and with compiled blocks, ours in bf16 and in fp8, each against the time that its matrix products and
attention would take at the rate of a large bf16 product. segment: state in to state out against its denoising alone.
memory: the peak of each precision and offload.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import report
from benchmarks.full import FullSizeEngine, full_pipeline
from ltx2.checkpoint import default_cache
from ltx2.engine import Engine
from ltx2.errors import EngineMemoryError
from ltx2.fast import compile_blocks, speed_up
from ltx2.float8 import quantize
from ltx2.segment import SegmentRequest
from ltx2.timeline import SegmentShape, SegmentTiming, exact, first_timing, next_timing

CUDA = torch.device("cuda")
SHAPE = SegmentShape(121, exact(24))
ROUNDS = 5
SEGMENTS = 3
CEILING_SIDE = 8192
MEMORY = (
    ("bf16", "none"),
    ("fp8", "none"),
    ("bf16", "model"),
    ("fp8", "model"),
    ("bf16", "sequential"),
    ("fp8", "sequential"),
)
Row = dict[str, Any]


def main() -> None:
    """Measure the parts that were asked for."""
    parser = report.parser(__doc__ or "", "segment")
    parser.add_argument("--sizes", nargs="+", default=["768x512", "1536x1024"], metavar="WxH")
    parser.add_argument("--parts", nargs="+", default=["forward", "segment", "memory"])
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks/segment.py needs a CUDA device: it measures the full-size model")
    ceiling = matmul_ceiling()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}: {ceiling / 1e12:.0f} TFLOP/s in a large product")
    sizes = [tuple(int(side) for side in size.split("x")) for size in options.sizes]
    if {"forward", "segment"} & set(options.parts):
        forward, segment = measured(sizes, ceiling, with_segments="segment" in options.parts)
        report.write("segment", forward, options.json, ceiling_tflops=ceiling / 1e12, segments=segment)
        if segment:
            print(report.table(segment))
    if "memory" in options.parts:
        rows = memory(sizes[0])
        report.write("segment-memory", rows, options.json.with_name("segment-memory.json"))


def matmul_ceiling() -> float:
    """FLOP/s of a bf16 product of two 8192 x 8192 matrices."""
    one, two = (torch.randn(CEILING_SIDE, CEILING_SIDE, device=CUDA, dtype=torch.bfloat16) for _ in range(2))
    return 2 * CEILING_SIDE**3 / (timed(lambda: [one @ two for _ in range(10)]) / 10)


def measured(sizes: list[tuple[int, ...]], ceiling: float, *, with_segments: bool) -> tuple[list[Row], list[Row]]:
    """One row per size and variant of the forward, and one per size and precision of the whole segment."""
    pipeline = full_pipeline(CUDA)
    transformer = pipeline.transformer
    calls = {size: captured(Engine(pipeline), size) for size in sizes}
    flops = {size: counted(transformer, calls[size]) for size in sizes}
    right: dict[tuple[int, ...], tuple[Tensor, ...]] = {}
    forward: list[Row] = []
    segments: list[Row] = []

    def measure(variant: str) -> None:
        for size in sizes:
            forward.append(forward_row(variant, size, transformer, calls[size], flops[size] / ceiling, right))
            print(forward[-1], flush=True)

    with torch.inference_mode():
        measure("diffusers, eager")
        transformer.set_attention_backend("_native_cudnn")
        transformer.compile_repeated_blocks(fullgraph=True, dynamic=False)
        measure("diffusers, compiled blocks")
        speed_up(transformer, float8=False, device=CUDA)
        recompile(transformer)
        measure("longtake, bf16")
    if with_segments:
        segments += [segment_row(Engine(pipeline), "bf16", size) for size in sizes]
    with torch.inference_mode():
        for block in transformer.transformer_blocks:
            quantize(block, CUDA)
        recompile(transformer)
        measure("longtake, fp8")
    if with_segments:
        segments += [segment_row(Engine(pipeline), "fp8", size) for size in sizes]
    return forward, segments


def recompile(transformer: Any) -> None:
    """Compile the blocks as they are now."""
    torch._dynamo.reset()
    torch.cuda.empty_cache()
    compile_blocks(transformer, "inductor", default_cache().parent / "kernels")


def request_of(size: tuple[int, ...], timing: SegmentTiming) -> SegmentRequest:
    return SegmentRequest("a harbour in the morning", timing.index, size[0], size[1], timing)


def captured(engine: Engine, size: tuple[int, ...]) -> dict[str, Any]:
    """The arguments of the transformer's call in a continuation of that size."""
    calls: list[dict[str, Any]] = []

    def keep(_: Any, __: Any, kwargs: dict[str, Any], result: Any) -> None:
        calls.append(kwargs)

    hook = engine.pipeline.transformer.register_forward_hook(keep, with_kwargs=True)
    engine.warm_up(request_of(size, first_timing(SHAPE)))
    hook.remove()
    return calls[-1]


def counted(transformer: Any, call: dict[str, Any]) -> int:
    """FLOPs of the matrix products and the attention of one call."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        transformer(**call)
    return int(counter.get_total_flops())


def forward_row(
    variant: str,
    size: tuple[int, ...],
    transformer: Any,
    call: dict[str, Any],
    floor_s: float,
    right: dict[tuple[int, ...], tuple[Tensor, ...]],
) -> Row:
    """Time of one forward beside its floor, and how far its result is from the first variant's."""
    started = timed(lambda: transformer(**call), rounds=1)
    torch.cuda.reset_peak_memory_stats()
    result = transformer(**call)
    right.setdefault(size, tuple(part.float() for part in result))
    off = max(float((one.float() - two).norm() / two.norm()) for one, two in zip(result, right[size], strict=True))
    seconds = timed(lambda: transformer(**call))
    return {
        "forward": variant,
        "size": f"{size[0]}x{size[1]}",
        "ms": seconds * 1000,
        "of ceiling": floor_s / seconds,
        "first call s": started,
        "off by": off,
        "peak GiB": torch.cuda.max_memory_allocated() / 2**30,
    }


def segment_row(engine: Engine, precision: str, size: tuple[int, ...]) -> Row:
    """One row of `chained`, or of nothing when the device is too small."""
    torch.cuda.empty_cache()
    row: Row = {"segment": f"longtake, {precision}", "size": f"{size[0]}x{size[1]}"}
    try:
        row |= chained(engine, size)
    except EngineMemoryError as error:
        print(error)
    print(row, flush=True)
    return row


def chained(engine: Engine, size: tuple[int, ...]) -> Row:
    """A chain of segments, all but the first timed; nothing may be compiled after the warm-up."""
    timing = first_timing(SHAPE)
    engine.warm_up(request_of(size, timing))
    graphs = counters["stats"]["unique_graphs"]
    torch.cuda.reset_peak_memory_stats()
    output = engine.run(request_of(size, timing))
    whole, denoising = [], []
    for _ in range(SEGMENTS):
        timing = next_timing(timing)
        marks = Marks(engine.pipeline.transformer)
        before = time.perf_counter()
        output = engine.run(request_of(size, timing), output.state)
        whole.append(time.perf_counter() - before)
        denoising.append(marks.seconds())
    assert counters["stats"]["unique_graphs"] == graphs, "something was compiled after the warm-up"
    return {
        "state to state s": statistics.median(whole),
        "denoising s": statistics.median(denoising),
        "ratio": statistics.median(whole) / statistics.median(denoising),
        "peak GiB": torch.cuda.max_memory_allocated() / 2**30,
    }


class Marks:
    """The GPU's own clock at the first and the last call of the transformer within a segment."""

    def __init__(self, transformer: Any) -> None:
        self._events: list[torch.cuda.Event] = []
        self._hooks = [
            transformer.register_forward_pre_hook(self._mark),
            transformer.register_forward_hook(self._mark),
        ]

    def _mark(self, *_: Any) -> None:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._events.append(event)

    def seconds(self) -> float:
        """From before the first call to after the last."""
        for hook in self._hooks:
            hook.remove()
        torch.cuda.synchronize()
        return self._events[0].elapsed_time(self._events[-1]) / 1000


def memory(size: tuple[int, ...]) -> list[Row]:
    """One row for each precision and offload."""
    rows = []
    for precision, offload in MEMORY:
        rows.append(memory_row(precision, offload, size))
        print(rows[-1], flush=True)
        gc.collect()
        torch.cuda.empty_cache()
    return rows


def memory_row(precision: str, offload: str, size: tuple[int, ...]) -> Row:
    """The peak of a whole segment, as the driver sees it, and what the segment takes then."""
    engine = FullSizeEngine.load(device="cuda", precision=precision, offload=offload, compiler="off")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    request = request_of(size, first_timing(SHAPE))
    seconds = timed(lambda: engine.run(request), rounds=1)
    return {
        "precision": precision,
        "offload": offload,
        "size": f"{size[0]}x{size[1]}",
        "peak GiB": torch.cuda.max_memory_reserved() / 2**30,
        "segment s": seconds,
    }


def timed(work: Callable[[], Any], rounds: int = ROUNDS) -> float:
    """Median seconds of `work` on the GPU and around it."""
    took = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        took.append(start.elapsed_time(end) / 1000)
    return statistics.median(took)


if __name__ == "__main__":
    main()
