"""One film on 1, 2 and more GPUs of a machine: the transformer's call, whole segments, a chain, a step with guidance.

    python benchmarks/parallel.py [--gpus 1 2] [--sizes 768x512 1536x1024] [--precisions bf16 fp8]
        [--parts calls segments guidance] [--segments 6 2]

Full-size LTX-2.3 with random weights (benchmarks/full.py), 121 frames, continuations, 8 distilled steps, no guidance.
Each precision and number of GPUs has an engine of its own, one after the other. calls: one call of the transformer, and
how much of it is exchange: in all, and while nothing else runs on the GPU. segments: a chain, from state to state,
without its first segment, which compiles. guidance: a step with all four kinds of prediction; compiles for minutes.
Each row is printed and saved when it is measured; one that fails does not end the others. `--device cpu` uses processes
and the smallest model.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import statistics
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch._dynamo.utils import counters
from torch.autograd import DeviceType
from torch.profiler import profile

from benchmarks import rank_rows, report
from benchmarks.full import full_pipeline
from benchmarks.rank_rows import Results, Row
from ltx2.engine import Engine
from ltx2.errors import SegmentCancelledError
from ltx2.model.denoising.conditioning import state_after
from ltx2.parallel.ranks import Ranks
from ltx2.preparation import EngineSettings
from ltx2.request import SegmentOutput, SegmentRequest
from ltx2.sampling import Sampling
from ltx2.state.continuation import LTX2ContinuationState
from ltx2.timeline import SegmentShape, SegmentTiming, exact, first_timing, next_timing

ROUNDS = 5
PARTS = ("calls", "segments", "guidance")
BYTES = {"fp32": 4, "bf16": 2, "fp8": 2}  # of what is exchanged
Size = tuple[int, int]


def main() -> None:
    """Measure each precision with each number of GPUs in `--gpus`, and print one table per part."""
    options = parsed()
    if options.device == "cuda" and torch.cuda.device_count() < max(options.gpus):
        sys.exit(
            f"benchmarks/parallel.py --gpus {max(options.gpus)} needs as many GPUs; this machine has "
            f"{torch.cuda.device_count()}"
        )
    rows: list[Row] = []
    began = time.perf_counter()
    first: dict[tuple[str, ...], Row] = {}
    with tempfile.TemporaryDirectory() as folder:
        for precision, count in itertools.product(options.precisions, options.gpus):
            prepare = functools.partial(Bench, precision=precision, count=count, options=options, folder=Path(folder))
            works = [
                {"part": part, "gpus": count, "precision": precision, "size": size}
                for size, part in itertools.product(options.sizes, options.parts)
            ]
            for row in rank_rows.measured(count, options.device, prepare, works, options.limit):
                rows.append(with_factors(first, row))
                print(f"{report.table([row])}\nafter {time.perf_counter() - began:.0f} s", flush=True)
                report.save("parallel", rows, options.json)
    for part in options.parts:
        if found := [row for row in rows if row["part"] == part and "error" not in row]:
            print(report.table(found))
    print(f"figures: {options.json}")
    rank_rows.exit_if_failed(rows)


def parsed() -> argparse.Namespace:
    """The options. segments: by size."""
    parser = report.parser(__doc__ or "", "parallel")
    parser.add_argument("--gpus", nargs="+", type=int, default=[1, 2], metavar="COUNT")
    parser.add_argument("--sizes", nargs="+", default=["768x512", "1536x1024"], metavar="WxH")
    parser.add_argument("--precisions", nargs="+", choices=["bf16", "fp8", "fp32"], default=["bf16", "fp8"])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["calls", "segments"])
    parser.add_argument(
        "--segments", nargs="+", type=int, default=[6, 2], help="in the chain, of each size; the last of all others"
    )
    parser.add_argument("--frames", type=int, default=121)
    parser.add_argument("--limit", type=float, default=240, help="seconds for a row, or to load a model")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    options = parser.parse_args()
    lengths = options.segments + options.segments[-1:] * len(options.sizes)
    options.segments = dict(zip(options.sizes, lengths, strict=False))
    options.parts = sorted(options.parts, key=PARTS.index)
    return options


def with_factors(first: dict[tuple[str, ...], Row], row: Row) -> Row:
    """Add to each time how many times as fast it is as that of the first row of the same kind."""
    if "error" not in row:
        alone = first.setdefault((row["part"], row["precision"], row["size"]), dict(row))
        for name in [name for name in row if name.endswith((" s", " ms"))]:
            row[f"{name[: name.rindex(' ')]}, times as fast"] = alone[name] / row[name]
    return row


def engine_of(device: torch.device, precision: str, ranks: Ranks | None) -> Engine:
    """An engine with the full-size model, or with the smallest on the CPU."""
    if device.type == "cpu":
        return Engine.load("tiny", device="cpu", precision=precision, ranks=ranks)
    pipeline = full_pipeline(device)  # the same weights on each GPU
    engine = Engine.ready(pipeline, EngineSettings(device, precision), ranks=ranks)
    engine._compiled = False  # compile what is rendered and no more, when it is rendered
    return engine


class Bench:
    """Measures one engine, on all ranks at once."""

    def __init__(self, rank: int, *, precision: str, count: int, options: argparse.Namespace, folder: Path) -> None:
        assert dist.group.WORLD is not None
        device = torch.device(options.device, rank) if options.device == "cuda" else torch.device("cpu")
        self._engine = engine_of(device, precision, Ranks(rank, count, dist.group.WORLD) if count > 1 else None)
        self._rank = rank
        self._precision = precision
        self._count = count
        self._options = options
        self._results = Results(folder)
        self._shape = SegmentShape(options.frames, exact(24))

    def __call__(self, part: str, size: str, **_: Any) -> Row:
        """The row of a part, of a size such as 768x512."""
        width, height = (int(side) for side in size.split("x"))
        row: Row = getattr(self, part)((width, height))
        return row

    def calls(self, size: Size) -> Row:
        """The transformer's call in a continuation."""
        arguments = self._captured(size)
        transformer = self._engine.pipeline.transformer
        with torch.inference_mode():
            result = transformer(**arguments)
            began = self._now()
            for _ in range(ROUNDS):  # in a row, as in a segment: the host launches while the GPU computes
                again = transformer(**arguments)
            seconds = (self._now() - began) / ROUNDS
            exchanged, exposed = self._exchange(arguments)
        names = ("video off by", "audio off by")
        tokens = arguments["hidden_states"].shape[1]
        return {
            "call ms": seconds * 1000,
            "exchange % of it": exchanged,
            "with nothing beside %": exposed,
            "sent GB": self._sent(tokens, arguments["audio_hidden_states"].shape[1]) / 1e9,
            "repeated exactly": all(one.equal(two) for one, two in zip(result, again, strict=True)),
            **dict(zip(names, self._off("call", size, result), strict=True)),
        }

    def segments(self, size: Size) -> Row:
        """A chain of continuations, without the first."""
        timing, state = self._begin(size)
        output = self._run(size, timing, state)
        off = self._off("segment", size, (output.video_latents,))[0]
        graphs = counters["stats"]["unique_graphs"]
        took = []
        for _ in range(self._options.segments["x".join(map(str, size))]):
            timing = next_timing(timing)
            began = self._now()
            output = self._run(size, timing, output.state)
            took.append(self._now() - began)
        assert counters["stats"]["unique_graphs"] == graphs, "something was compiled after the first segment"
        cuda = self._options.device == "cuda"
        return {
            "segment s": statistics.median(took),
            "chain of": len(took),
            "chain s": sum(took),
            "latents off by": off,
            "peak GiB": torch.cuda.max_memory_allocated() / 2**30 if cuda else None,
        }

    def guidance(self, size: Size) -> Row:
        """A step with the prompt, the negative prompt, perturbed blocks, and picture and sound isolated."""
        timing, state = self._begin(size)
        sampling = Sampling(distilled=False, steps=4)
        marks: list[float] = []

        def mark(*_: int) -> None:
            marks.append(self._now())

        self._engine.run(self._request(size, timing, sampling=sampling), state, on_step=mark)
        first, *_, last = marks  # the first step compiles
        return {"step s": (last - first) / (len(marks) - 1)}

    def _begin(self, size: Size) -> tuple[SegmentTiming, LTX2ContinuationState]:
        """The timing of a continuation and a state of noise, as the frames of random weights are."""
        first, draw = first_timing(self._shape), np.random.default_rng(0)
        frames = draw.integers(0, 256, (first.tail_frames, size[1], size[0], 3), dtype=np.uint8)
        channels, mel = self._engine.pipeline.audio_shape
        sound = torch.randn(1, channels, first.audio_latents, mel, generator=torch.Generator().manual_seed(0))
        return next_timing(first), state_after(first, frames, sound, self._engine.audio_rate, {})

    def _request(self, size: Size, timing: SegmentTiming, **more: Any) -> SegmentRequest:
        return SegmentRequest("a harbour in the morning", timing.index, *size, timing, **more)

    def _run(self, size: Size, timing: SegmentTiming, state: LTX2ContinuationState) -> SegmentOutput:
        return self._engine.run(self._request(size, timing), state)

    def _captured(self, size: Size) -> dict[str, Any]:
        """The arguments of the first call of a segment, which ends after it."""
        seen: list[dict[str, Any]] = []
        transformer = self._engine.pipeline.transformer
        hook = transformer.register_forward_pre_hook(lambda _, __, kwargs: seen.append(kwargs), with_kwargs=True)
        timing, state = self._begin(size)
        with suppress(SegmentCancelledError):
            self._engine.run(self._request(size, timing), state, on_step=lambda *_: False)
        hook.remove()
        return self._engine.pipeline._drop_masks(transformer, (), seen[0])[1]  # its hook runs after the one above

    def _now(self) -> float:
        """The time at which all ranks have come here and their GPUs have finished."""
        if self._options.device == "cuda":
            torch.cuda.synchronize()
        if self._count > 1:
            dist.barrier()
        return time.perf_counter()

    def _exchange(self, arguments: dict[str, Any]) -> tuple[float | None, float | None]:
        """Of a call on this GPU, the percentage in which ranks exchange, and in which nothing else runs meanwhile."""
        if self._options.device == "cpu" or self._count == 1:
            return None, None
        with profile() as profiler:
            self._engine.pipeline.transformer(**arguments)
            torch.cuda.synchronize()
        spans: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
        for event in profiler.events():
            sends = "nccl" in event.name.lower() or "PtoP" in event.name  # a copy to another GPU
            if event.device_type == DeviceType.CUDA and (sends or not event.name.startswith(("Mem", "gpu"))):
                spans[sends].append((event.time_range.start, event.time_range.end))
        whole, exchange, rest = (covered(part) for part in (spans[True] + spans[False], spans[True], spans[False]))
        return 100 * exchange / whole, 100 * (whole - rest) / whole

    def _sent(self, tokens: int, sound: int) -> float:
        """Bytes that a rank sends to others in a call of one item."""
        config = self._engine.pipeline.transformer.config
        picture = config.num_attention_heads * config.attention_head_dim
        heard = config.audio_num_attention_heads * config.audio_attention_head_dim
        others, own = self._count - 1, tokens / self._count
        values = own * (4 * picture + 2 * heard) / self._count + sound * heard / self._count
        return float(config.num_layers * others * values * BYTES[self._precision])

    def _off(self, what: str, size: Size, result: tuple[Tensor, ...]) -> list[float | None]:
        """How far each part of `result` is from that of the first number of GPUs, relative to its norm."""
        parts = [part.detach().float().cpu() for part in result]
        first = None if self._rank else self._results.first(f"{what}-{self._precision}-{size[0]}x{size[1]}", parts)
        if first is None:
            return [None] * len(parts)
        return [float((one - two).norm() / two.norm()) for one, two in zip(parts, first, strict=True)]


def covered(spans: list[tuple[float, float]]) -> float:
    """The length of the union of `spans`."""
    length, end = 0.0, float("-inf")
    for begin, stop in sorted(spans):
        length += max(0.0, stop - max(begin, end))
        end = max(end, stop)
    return length


if __name__ == "__main__":
    main()
