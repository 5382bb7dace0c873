"""Pictures decoded and encoded by several GPUs together: milliseconds, and how far frames are from those of one GPU.

    python benchmarks/decoding.py [--gpus 1 2] [--sizes 768x512 1536x1024] [--parts decode encode diffusion]

Full size, random weights (see benchmarks/full.py), 121 frames. decode: by the VAE, compiled, in strips. encode: the
frames that a segment continues, by the VAE. diffusion: by the diffusion decoder of LTX-2.5, in tiles. On the device
`cpu`, small models do it in processes, without a compiler. The last layer is scaled so that pixels have a standard
deviation of a quarter of their range, as in pictures of high contrast. Each row is printed and saved when it is
measured; one that fails does not end the others.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.distributed as dist
from diffusers import AutoencoderKLLTX2Video, LTX2VideoDiffusionDecoderModel
from torch import Tensor
from torch._dynamo.utils import counters

from benchmarks import rank_rows, report
from benchmarks.full import VAE
from benchmarks.rank_rows import Results, Row
from ltx2.acceleration.compile import compile_decoder
from ltx2.checkpoints.diffusion_decoder import DIFFUSION_FOLDER
from ltx2.checkpoints.resolve import default_cache, resolve_model
from ltx2.model.codecs.neighborhood import NeighborhoodProcessor
from ltx2.parallel.encoding import share_encoder
from ltx2.parallel.halo import add_halos, working_on
from ltx2.parallel.ranks import Ranks
from ltx2.parallel.strips import strip_of
from ltx2.parallel.tiles import decode_in_tiles

PARTS = ("decode", "encode", "diffusion")
CONTRAST = 0.5


def main() -> None:
    """Measure `--parts` with each number of GPUs in `--gpus`, of which the first is the reference."""
    parser = report.parser(__doc__ or "", "decoding")
    parser.add_argument("--gpus", nargs="+", type=int, default=[1, 2], metavar="N")
    parser.add_argument("--sizes", nargs="+", default=["768x512", "1536x1024"], metavar="WxH")
    parser.add_argument("--frames", type=int, default=121, help="that are decoded")
    parser.add_argument("--overlap", type=int, default=9, help="frames that are encoded")
    parser.add_argument("--parts", nargs="+", default=["decode", "encode"], choices=PARTS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--limit", type=float, default=240, help="seconds for a row")
    options = parser.parse_args()
    if options.device == "cuda" and torch.cuda.device_count() < max(options.gpus):
        sys.exit(f"--gpus {max(options.gpus)}, but this machine has {torch.cuda.device_count()} CUDA devices")
    rows: list[Row] = []
    began = time.perf_counter()
    works = [
        {"part": part, "gpus": count, "size": size}
        for part, count, size in itertools.product(options.parts, options.gpus, options.sizes)
    ]
    with TemporaryDirectory() as folder:
        prepare = functools.partial(Bench, options=options, folder=Path(folder))
        for row in rank_rows.measured(max(options.gpus), options.device, prepare, works, options.limit):
            rows.append(row)
            print(f"{report.table([row])}\nafter {time.perf_counter() - began:.0f} s", flush=True)
            report.save("decoding", rows, options.json)
    if found := [row for row in rows if "error" not in row]:
        print(report.table(found))
    print(f"figures: {options.json}")
    rank_rows.exit_if_failed(rows)


class Bench:
    """One rank of as many as the most GPUs. Those that a row does not need wait."""

    def __init__(self, rank: int, *, options: argparse.Namespace, folder: Path) -> None:
        self._device = torch.device(options.device, rank) if options.device == "cuda" else torch.device("cpu")
        groups = {count: dist.new_group(list(range(count))) for count in options.gpus}
        self._ranks = {count: Ranks(rank, count, group) for count, group in groups.items()}
        self._options = options
        self._results = Results(folder)
        self._prepared: tuple[str, int, Prepared] | None = None

    def __call__(self, part: str, gpus: int, size: str) -> Row:
        """The row of a part, of a size such as 768x512."""
        ranks = self._ranks[gpus]
        row = self._row(part, size, ranks) if ranks.rank < gpus else {}
        dist.barrier()
        return row

    def _row(self, part: str, size: str, ranks: Ranks) -> Row:
        width, height = (int(side) for side in size.split("x"))
        frames = self._options.overlap if part == "encode" else self._options.frames
        given = torch.Generator().manual_seed(1), (frames - 1) // 8 + 1, height // 32, width // 32
        with torch.inference_mode():
            call = self._prepare(part, ranks)(*given)
            result = call()
            call()
            graphs, seconds = counters["stats"]["unique_graphs"], []
            for _ in range(self._options.rounds):
                synchronize(ranks, self._device)
                began = time.perf_counter()
                call()
                synchronize(ranks, self._device)
                seconds.append(time.perf_counter() - began)
        assert counters["stats"]["unique_graphs"] == graphs, "something was compiled after the warm-up"
        result = result.cpu()
        first = self._results.first(f"{part}-{size}", [result]) if ranks.rank == 0 else None
        return {"ms": report.median_ms(seconds), **off_by(result, first[0] if first else None)}

    def _prepare(self, part: str, ranks: Ranks) -> Prepared:
        """The model of a part, once for all sizes."""
        if self._prepared is None or self._prepared[:2] != (part, ranks.count):
            self._prepared = None  # which frees its memory
            prepare = {"decode": decoding, "encode": encoding, "diffusion": diffusion}[part]
            self._prepared = part, ranks.count, prepare(ranks, self._device)
        return self._prepared[2]


def off_by(result: Tensor, first: Tensor | None) -> Row:
    """Levels of 255 for frames; latents are compared in units of their standard deviation. first: to compare with."""
    of_frames = result.dtype == torch.uint8
    names = ("off by, levels", "off by more than 1, %", "off by, of std")
    if first is None:
        return dict.fromkeys(names)
    off = (result.float() - first.float()).abs()
    levels = (int(off.max()), 100 * float((off > 1).float().mean()), None)
    return dict(zip(names, levels if of_frames else (None, None, float(off.max() / first.float().std())), strict=True))


def synchronize(ranks: Ranks, device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
    dist.barrier(ranks.group)


Call = Callable[[], Tensor]
Prepared = Callable[[torch.Generator, int, int, int], Call]


def decoding(ranks: Ranks, device: torch.device) -> Prepared:
    """Latents to frames, as `PictureDecoder` does it."""
    vae = vae_on(device)
    current = add_halos(vae.decoder)
    assert current is not None
    if device.type == "cuda":
        compile_decoder(vae, "inductor", default_cache().parent / "kernels")

    def prepare(generator: torch.Generator, *size: int) -> Call:
        latents = torch.randn(1, vae.config.latent_channels, *size, generator=generator).to(device, vae.dtype)
        strip = strip_of(ranks, *size[1:])

        def call() -> Tensor:
            if strip is None:
                return levels(vae.decode(latents).sample)
            with working_on(current, strip):
                part = vae.decode(strip.cut(latents)).sample
            return strip.join(levels(part))

        return call

    return prepare


def encoding(ranks: Ranks, device: torch.device) -> Prepared:
    """Frames to latents."""
    vae = vae_on(device)
    share_encoder(vae, ranks)

    def prepare(generator: torch.Generator, frames: int, height: int, width: int) -> Call:
        pixels = 2 * torch.rand(1, 3, 8 * (frames - 1) + 1, 32 * height, 32 * width, generator=generator) - 1
        pixels = pixels.to(device, vae.dtype)
        return lambda: vae.encode(pixels).latent_dist.mode()

    return prepare


def diffusion(ranks: Ranks, device: torch.device) -> Prepared:
    """Latents to frames by the diffusion decoder."""
    if device.type == "cuda":
        model = built(LTX2VideoDiffusionDecoderModel, {}, device)
        model.enable_tiling()
    else:
        folder = resolve_model("tiny-2.5", default_cache())
        model = LTX2VideoDiffusionDecoderModel.from_pretrained(folder / DIFFUSION_FOLDER)
        model.enable_tiling(64, 64, 16, 32, 32, 8)
    model.set_attn_processor(NeighborhoodProcessor())

    def prepare(generator: torch.Generator, *size: int) -> Call:
        latents = torch.randn(1, model.config.latent_channels, *size, generator=generator).to(device, model.dtype)

        def call() -> Tensor:
            noise = torch.Generator().manual_seed(2)
            if ranks.count == 1:
                return levels(model.decode(latents, generator=noise).sample)
            return levels(decode_in_tiles(model, latents, noise, ranks))

        return call

    return prepare


def vae_on(device: torch.device) -> Any:
    """The VAE of LTX-2.3 at full size, or a small one on the CPU, whose pixels have the standard deviation CONTRAST."""
    if device.type == "cuda":
        vae = built(AutoencoderKLLTX2Video, VAE, device)
    else:
        vae = AutoencoderKLLTX2Video.from_pretrained(resolve_model("tiny", default_cache()) / "vae")
    latents = torch.randn(1, vae.config.latent_channels, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    spread = vae.decode(latents.to(device, vae.dtype)).sample.float().std()
    for weights in vae.decoder.conv_out.parameters():
        weights *= CONTRAST / spread
    return vae


def built(kind: Any, config: dict[str, Any], device: torch.device) -> Any:
    """A model in bfloat16 with the same random weights on all ranks."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            return kind(**config).eval()
    finally:
        torch.set_default_dtype(before)


def levels(pixels: Tensor) -> Tensor:
    """Frames in levels of 255, `[1, 3, n, H, W]`."""
    return ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


if __name__ == "__main__":
    main()
