"""One segment of full-size LTX-2.3 or 2.5 on a GPU: the transformer's forward, the whole segment, and memory.

    python benchmarks/segment.py [--version 2.3] [--sizes 768x512 1536x1024] [--parts forward segment memory]

Random weights (see benchmarks/full.py), 121 frames, a continuation, 8 distilled steps, no guidance. forward: diffusers'
transformer eager and with compiled blocks, longtake's in bf16 and in fp8, each compared with the time of its matrix
products and attention at the rate of a large bf16 product. segment: from state to state, compared with the denoising,
and the other parts. memory: the peak with the settings for each card, see benchmarks/memory.py.
"""

from __future__ import annotations

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
from benchmarks.full import full_pipeline
from benchmarks.memory import FullModels, memory_of_cards
from ltx2.acceleration.compile import compile_blocks, compile_decoder, speed_up
from ltx2.acceleration.fp8 import quantize
from ltx2.checkpoints.resolve import default_cache
from ltx2.engine import Engine
from ltx2.errors import EngineMemoryError
from ltx2.model.pipeline import LongtakePipeline
from ltx2.request import SegmentRequest
from ltx2.timeline import SegmentShape, SegmentTiming, exact, first_timing, next_timing

CUDA = torch.device("cuda")
SHAPE = SegmentShape(121, exact(24))
ROUNDS = 5
SEGMENTS = 3
CEILING_SIDE = 8192
SUSTAINED_S = 3.0
Row = dict[str, Any]


def main() -> None:
    """Measure the parts in `--parts`."""
    parser = report.parser(__doc__ or "", "segment")
    parser.add_argument("--sizes", nargs="+", default=["768x512", "1536x1024"], metavar="WxH")
    parser.add_argument("--version", choices=["2.3", "2.5"], default="2.3")
    parser.add_argument("--parts", nargs="+", default=["forward", "segment", "memory"])
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks/segment.py needs a CUDA device: it measures the full-size model")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    sizes = [tuple(int(side) for side in size.split("x")) for size in options.sizes]
    if {"forward", "segment"} & set(options.parts):
        ceiling, sustained = matmul_rates()
        print(f"a large product: {ceiling / 1e12:.0f} TFLOP/s, {sustained / 1e12:.0f} after {SUSTAINED_S:g} s")
        forward, segment = measured(options.version, sizes, ceiling, options.parts)
        for rows in (forward, segment):
            print(report.table(rows) if rows else "")
        more = {"ceiling_tflops": ceiling / 1e12, "sustained_tflops": sustained / 1e12, "segments": segment}
        report.write("segment", forward or segment, options.json, **more)
    if "memory" in options.parts:
        rows = memory_of_cards(FullModels(options.version))
        report.write("segment-memory", rows, options.json.with_name("segment-memory.json"))


def matmul_rates() -> tuple[float, float]:
    """FLOP/s of a bf16 product of two 8192 x 8192 matrices: peak and sustained.

    Peak is the best of several rounds on an idle GPU. Sustained is the median after seconds of work, when the GPU has
    reached its power limit and lowered its clock.
    """
    one, two = (torch.randn(CEILING_SIDE, CEILING_SIDE, device=CUDA, dtype=torch.bfloat16) for _ in range(2))

    def seconds() -> float:
        return timed(lambda: [one @ two for _ in range(10)], rounds=1) / 10

    best = min(seconds() for _ in range(4 * ROUNDS))
    end = time.monotonic() + SUSTAINED_S
    while time.monotonic() < end:
        seconds()
    return 2 * CEILING_SIDE**3 / best, 2 * CEILING_SIDE**3 / statistics.median(seconds() for _ in range(ROUNDS))


def measured(
    version: str, sizes: list[tuple[int, ...]], ceiling: float, parts: list[str]
) -> tuple[list[Row], list[Row]]:
    """One row per size and variant of the forward, and one per size and precision of the whole segment."""
    pipeline = full_pipeline(CUDA, version=version)
    transformer = pipeline.transformer
    forward = Forward(pipeline, sizes, ceiling) if "forward" in parts else None
    segments: list[Row] = []
    if forward:
        forward.measure("diffusers, eager")
        transformer.set_attention_backend("_native_cudnn")
        transformer.compile_repeated_blocks(fullgraph=True, dynamic=False)
        forward.measure("diffusers, compiled blocks")
    speed_up(transformer, float8=False, device=CUDA)
    for precision in ("bf16", "fp8"):
        if precision == "fp8":
            for block in transformer.transformer_blocks:
                quantize(block, CUDA)
        recompile(pipeline)
        if forward:
            forward.measure(f"longtake, {precision}")
        if "segment" in parts:
            segments += [segment_row(Engine(pipeline, graphs=True), precision, size) for size in sizes]
    return forward.rows if forward else [], segments


def recompile(pipeline: LongtakePipeline) -> None:
    """Compile the transformer as it is now, and the decoder."""
    torch._dynamo.reset()
    torch.cuda.empty_cache()
    kernels = default_cache().parent / "kernels"
    compile_blocks(pipeline.transformer, "inductor", kernels)
    compile_decoder(pipeline.vae, "inductor", kernels)


def request_of(size: tuple[int, ...], timing: SegmentTiming) -> SegmentRequest:
    return SegmentRequest("a harbour in the morning", timing.index, size[0], size[1], timing)


class Forward:
    """Times the transformer's call in a continuation, with the pipeline's arguments, for several variants."""

    def __init__(self, pipeline: LongtakePipeline, sizes: list[tuple[int, ...]], ceiling: float) -> None:
        self.rows: list[Row] = []
        self._transformer = pipeline.transformer
        self._calls = {size: captured(Engine(pipeline), size) for size in sizes}
        self._floor_s = {size: counted(self._transformer, call) / ceiling for size, call in self._calls.items()}
        self._reference: dict[tuple[int, ...], tuple[Tensor, ...]] = {}

    def measure(self, variant: str) -> None:
        """Add a row for each size."""
        for size, call in self._calls.items():
            with torch.inference_mode():
                self.rows.append(self._row(variant, size, lambda: self._transformer(**call)))  # noqa: B023
            print(self.rows[-1], flush=True)

    def _row(self, variant: str, size: tuple[int, ...], forward: Callable[[], tuple[Tensor, ...]]) -> Row:
        started = timed(forward, rounds=1)
        torch.cuda.reset_peak_memory_stats()
        result = [part.float() for part in forward()]
        reference = self._reference.setdefault(size, tuple(result))
        off = [float((one - two).norm() / two.norm()) for one, two in zip(result, reference, strict=True)]
        seconds = timed(forward)
        return {
            "forward": variant,
            "size": f"{size[0]}x{size[1]}",
            "ms": seconds * 1000,
            "of ceiling": self._floor_s[size] / seconds,
            "first call s": started,
            "video off by": off[0],
            "audio off by": off[1],
            "peak GiB": torch.cuda.max_memory_allocated() / 2**30,
        }


def captured(engine: Engine, size: tuple[int, ...]) -> dict[str, Any]:
    """The arguments of the transformer's call in a continuation of this size."""
    calls: list[dict[str, Any]] = []

    def keep(_: Any, __: Any, kwargs: dict[str, Any], result: Any) -> None:
        calls.append(kwargs)

    hook = engine.pipeline.transformer.register_forward_hook(keep, with_kwargs=True)
    engine.warm_up(request_of(size, first_timing(SHAPE)))
    hook.remove()
    return calls[-1]


def counted(transformer: Any, call: dict[str, Any]) -> int:
    """FLOPs of the matrix products and attention of one call."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        transformer(**call)
    return int(counter.get_total_flops())


def segment_row(engine: Engine, precision: str, size: tuple[int, ...]) -> Row:
    """One row of `chained`, without figures if the device is too small."""
    torch.cuda.empty_cache()
    row: Row = {"segment": f"longtake, {precision}", "size": f"{size[0]}x{size[1]}"}
    try:
        row |= chained(engine, size)
    except EngineMemoryError as error:
        print(error)
    print(row, flush=True)
    return row


def chained(engine: Engine, size: tuple[int, ...]) -> Row:
    """Time a chain of segments without the first. Nothing may be compiled after the warm-up."""
    timing = first_timing(SHAPE)
    engine.warm_up(request_of(size, timing))
    graphs = counters["stats"]["unique_graphs"]
    torch.cuda.reset_peak_memory_stats()
    output = engine.run(request_of(size, timing))
    whole, parts = [], []
    for _ in range(SEGMENTS):
        timing = next_timing(timing)
        marks = {part: Marks(*call) for part, call in parts_of(engine).items()}
        before_last, before = output.state, time.perf_counter()
        output = engine.run(request_of(size, timing), before_last)
        whole.append(time.perf_counter() - before)
        parts.append({part: mark.seconds() for part, mark in marks.items()})
    assert counters["stats"]["unique_graphs"] == graphs, "something was compiled after the warm-up"
    again = engine.run(request_of(size, timing), before_last)
    took = {f"{part} s": statistics.median(times[part] for times in parts) for part in parts[0]}
    return {
        "state to state s": statistics.median(whole),
        **took,
        "rest s": statistics.median(whole) - sum(took.values()),
        "ratio": statistics.median(whole) / took["denoising s"],
        "same bytes again": bool((again.frames == output.frames).all() and (again.sound == output.sound).all()),
        "peak GiB": torch.cuda.max_memory_allocated() / 2**30,
    }


def parts_of(engine: Engine) -> dict[str, tuple[Any, str]]:
    """The parts of a segment on the GPU, in order, each with its call."""
    vae, transformer = engine.pipeline.vae, engine.pipeline.transformer
    return {
        "frames in": (vae, "encode"),
        "denoising": (transformer, "forward"),
        "frames out": (vae, "decode"),
        "sound out": (engine, "_decode_sound"),  # a CUDA graph does not call its modules
    }


class Marks:
    """Measures the GPU time from before the first to after the last call of `owner.name` within a segment.

    Methods are wrapped, because hooks are compiled with their module.
    """

    def __init__(self, owner: Any, name: str) -> None:
        self._events: list[torch.cuda.Event] = []
        self._owner, self._name = owner, name
        self._before = vars(owner).get(name)
        setattr(owner, name, self._marked(getattr(owner, name)))

    def _marked(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def marked(*args: Any, **kwargs: Any) -> Any:
            self._mark()
            result = call(*args, **kwargs)
            self._mark()
            return result

        return marked

    def _mark(self) -> None:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._events.append(event)

    def seconds(self) -> float:
        """The time from before the first call to after the last, in seconds; calls are no longer marked."""
        delattr(self._owner, self._name)
        if self._before is not None:
            setattr(self._owner, self._name, self._before)
        torch.cuda.synchronize()
        return self._events[0].elapsed_time(self._events[-1]) / 1000


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
