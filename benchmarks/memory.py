"""Memory that the settings for each card in docs/models.md need, on one GPU that is larger than all of them.

    python benchmarks/memory.py [--rows 2 5 7] [--device cpu]

Full-size LTX-2.3 with random weights and a text encoder as large as the real one. Each row of
`ltx2.checkpoints.reports.cards` renders a first segment and a continuation of two steps each, while the next prompt is
encoded, with the memory of its card and no more. --rows: which of them, counted from 0; all by default. --device cpu
does the same with a tiny model, to test the program; its memory says nothing.
"""

from __future__ import annotations

import gc
import resource
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from transformers import Gemma3Config

from benchmarks import report
from benchmarks.full import GEMMA, GEMMA_LAYERS, VISION, full_pipeline
from ltx2.acceleration.compile import speed_up
from ltx2.acceleration.fp8 import quantize
from ltx2.checkpoints.reports.cards import CARDS, Card
from ltx2.checkpoints.resolve import default_cache, resolve_model
from ltx2.engine import Engine
from ltx2.errors import EngineMemoryError
from ltx2.model.pipeline import LongtakePipeline
from ltx2.model.text.text_encoder import TextEncoder, TextEncoderMode
from ltx2.model.weights.gemma import Gemma3
from ltx2.model.weights.loading import load_pipeline, variant_of_pipeline
from ltx2.model.weights.placement import place
from ltx2.request import SegmentRequest
from ltx2.sampling import Sampling
from ltx2.timeline import SegmentShape, exact, first_timing, next_timing

GIB = 2**30
USABLE_GIB = {96: 94.0, 80: 78.0, 48: 43.5, 32: 30.0, 24: 21.5}
"""What the smallest card of a class leaves to torch: ECC takes some, and the CUDA context most of a GiB."""
FEW_STEPS = (1.0, 0.5)  # the peak is the same in every step
CPU_LAYERS = 2
TINY_SIZE = (96, 64)
Row = dict[str, Any]


class Models(Protocol):
    """Where the models to measure come from. size: of the segments, None for the card's."""

    device: torch.device
    size: tuple[int, int] | None
    frames: int

    def pipeline(self) -> LongtakePipeline:
        """A new pipeline in bfloat16."""
        ...


class FullModels:
    """The full-size model on the GPU."""

    device = torch.device("cuda")
    size = None
    frames = 121

    def __init__(self, version: str) -> None:
        self._version = version

    def pipeline(self) -> LongtakePipeline:
        """Built in seconds on the GPU; 70 GB."""
        return full_pipeline(self.device, version=self._version, whole_text_encoder=True)


class TinyModels:
    """The tiny model on the CPU."""

    device = torch.device("cpu")
    size = TINY_SIZE
    frames = 17

    def pipeline(self) -> LongtakePipeline:
        """Loaded from the cache."""
        folder = resolve_model("tiny", default_cache())
        assert isinstance(folder, Path)
        return load_pipeline(folder, torch.bfloat16)


def main() -> None:
    """Measure all cards."""
    parser = report.parser(__doc__ or "", "segment-memory")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--rows", type=int, nargs="+", choices=range(len(CARDS)), default=range(len(CARDS)))
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("benchmarks/memory.py needs a CUDA device, or --device cpu to test it")
    models = FullModels("2.3") if options.device == "cuda" else TinyModels()
    report.write("segment-memory", memory_of_cards(models, [CARDS[row] for row in options.rows]), options.json)


def memory_of_cards(models: Models, cards: Sequence[Card] = CARDS) -> list[Row]:
    """One row for each card. Most are measured with one model, changed step by step, because building takes long."""
    found: dict[Card, Row] = {}
    wanted = {Way.of(card) for card in cards}
    for chain in CHAINS:
        needed = [number for number, way in enumerate(chain) if way in wanted]
        if not needed:
            continue
        model = Placed(models)
        for way in chain[: needed[-1] + 1]:
            model.change(way)
            for card in [card for card in cards if way == Way.of(card)]:
                found[card] = _row(model, card)
                print(found[card], flush=True)
        del model
        gc.collect()
    if models.device.type == "cuda":
        seconds = cpu_prompt_seconds()
        print(f"Gemma on the CPU: {seconds:.1f} s per prompt, from {CPU_LAYERS} of {GEMMA_LAYERS} layers", flush=True)
    return [found[card] for card in cards]


@dataclass(frozen=True, slots=True)
class Way:
    """Where a model's weights are, and their precision."""

    precision: str
    offload: str
    text_encoder: str

    @classmethod
    def of(cls, card: Card) -> Way:
        """That of a card."""
        return cls(card.setting("PRECISION", "bf16"), card.setting("OFFLOAD", "none"), card.text_encoder)


CHAINS = (
    (
        Way("bf16", "none", "gpu"),
        Way("bf16", "none", "offload"),
        Way("fp8", "none", "offload"),
        Way("fp8", "sequential", "offload"),
    ),
    (Way("fp8", "none", "gpu"), Way("fp8", "model", "offload")),
)
"""Each way can be made from the one before."""


class Placed:
    """A model whose weights move."""

    def __init__(self, models: Models) -> None:
        self.models = models
        self.way = Way("bf16", "none", "gpu")
        self._pipeline = models.pipeline()
        self._variant = variant_of_pipeline(self._pipeline)
        self._encoder = TextEncoder.placed(self._pipeline, models.device, TextEncoderMode.GPU)
        speed_up(self._pipeline.transformer, float8=False, device=models.device)

    def change(self, way: Way) -> None:
        """Move to `way`."""
        device, pipeline, before = self.models.device, self._pipeline, self.way
        began = time.perf_counter()
        if way.precision != before.precision:
            for block in pipeline.transformer.transformer_blocks:
                quantize(block, device)
        if way.text_encoder != before.text_encoder and device.type == "cuda":
            self._encoder = TextEncoder.placed(pipeline, device, TextEncoderMode(way.text_encoder))
        place(pipeline, device, way.offload)
        self.way = way
        print(f"{way}: placed in {time.perf_counter() - began:.1f} s", flush=True)

    def engine(self) -> Engine:
        """An engine without prompts. What is not compiled here still counts: prompts ahead, and the graphs of sound."""
        way, on_gpu = self.way, self.models.device.type == "cuda"
        return Engine(
            self._pipeline,
            variant=self._variant,
            text_encoder=self._encoder,
            encode_ahead=way.offload != "sequential",
            graphs=on_gpu and way.offload == "none",
        )


def _row(model: Placed, card: Card) -> Row:
    """Two prompts, then two segments, with no more memory than the card has."""
    models, way, engine = model.models, model.way, model.engine()
    width, height = models.size or tuple(int(side) for side in card.size.split("x"))
    row: Row = {"card GB": card.memory_gb, **asdict(way), "size": f"{width}x{height}"}
    row |= dict.fromkeys(("peak GiB", "allocated GiB", "a prompt s", "two segments s"))
    with capped(models.device, USABLE_GIB[card.memory_gb]):
        try:
            row |= _timed(models, engine, (width, height))
            on_gpu = models.device.type == "cuda"
            row["peak GiB"] = torch.cuda.max_memory_reserved() / GIB if on_gpu else 0.0
            row["allocated GiB"] = torch.cuda.max_memory_allocated() / GIB if on_gpu else 0.0
        except (EngineMemoryError, torch.OutOfMemoryError) as error:
            print(f"{card.memory_gb} GB, {way}: {error}", flush=True)
    row["weights in main memory GiB"] = main_memory(engine)
    row["process GiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return row


def _timed(models: Models, engine: Engine, size: tuple[int, int]) -> Row:
    timing, sampling = first_timing(SegmentShape(models.frames, exact(24))), Sampling(sigmas=FEW_STEPS)
    engine.prompts.encode("the first prompt takes longer")
    began = time.perf_counter()
    engine.prompts.encode("a harbour in the morning")
    if models.device.type == "cuda":
        torch.cuda.synchronize()
    encoded = time.perf_counter()
    first = engine.run(SegmentRequest("a harbour in the morning", 0, *size, timing, sampling), next_prompt="gulls")
    engine.run(SegmentRequest("gulls", 1, *size, next_timing(timing), sampling), first.state, next_prompt="a boat")
    return {"a prompt s": encoded - began, "two segments s": time.perf_counter() - encoded}


@contextmanager
def capped(device: torch.device, gib: float) -> Iterator[None]:
    """Let torch use no more than `gib` of the GPU, and measure from here."""
    if device.type == "cpu":
        yield
        return
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.set_per_process_memory_fraction(gib * GIB / torch.cuda.get_device_properties(device).total_memory)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def main_memory(engine: Engine) -> float:
    """GiB of weights in main memory."""
    encoder, pipeline = engine.prompts.text_encoder, engine.pipeline
    parts = {id(part): part for part in (*pipeline.components.values(), *encoder.models)}
    models = [part for part in parts.values() if isinstance(part, torch.nn.Module)]
    tensors = [tensor for model in models for tensor in model.parameters()]
    return sum(tensor.nbytes for tensor in tensors if tensor.device.type == "cpu") / GIB


def cpu_prompt_seconds() -> float:
    """Seconds that Gemma 3 12B takes for a prompt on this machine's CPU, from some of its layers."""
    text = GEMMA | {"num_hidden_layers": CPU_LAYERS, "vocab_size": 8, "max_position_embeddings": 1024}
    with torch.device("meta"):
        gemma = Gemma3(Gemma3Config(text_config=text, vision_config=VISION))
    gemma = gemma.to(torch.bfloat16).to_empty(device="cpu").eval()
    for tensor in (*gemma.parameters(), *gemma.buffers()):
        tensor.data.fill_(0.01)
    took = []
    for _ in range(3):
        began = time.perf_counter()
        with torch.inference_mode():
            gemma(input_ids=torch.ones(1, 1024, dtype=torch.long), use_cache=False)
        took.append(time.perf_counter() - began)
    return statistics.median(took) / CPU_LAYERS * GEMMA_LAYERS


if __name__ == "__main__":
    main()
