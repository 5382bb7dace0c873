"""Pictures decoded and encoded by several GPUs together: milliseconds, and how far frames are from those of one GPU.

    python benchmarks/decoding.py [--gpus 1 2] [--sizes 768x512 1536x1024] [--parts decode encode diffusion]

Full size, random weights (see benchmarks/full.py), 121 frames. decode: by the VAE, compiled, in strips. encode: the
frames that a segment continues, by the VAE. diffusion: by the diffusion decoder of LTX-2.5, in tiles. On the device
`cpu`, small models do it in processes, without a compiler. The last layer is scaled so that pixels have a standard
deviation of a quarter of their range, as in pictures of high contrast.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.distributed as dist
from diffusers import AutoencoderKLLTX2Video, LTX2VideoDiffusionDecoderModel
from torch import Tensor
from torch._dynamo.utils import counters

from benchmarks import report
from benchmarks.full import VAE
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
Row = dict[str, Any]


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
    options = parser.parse_args()
    if options.device == "cuda" and torch.cuda.device_count() < max(options.gpus):
        sys.exit(f"--gpus {max(options.gpus)}, but this machine has {torch.cuda.device_count()} CUDA devices")
    report.write("decoding", rows_of(options), options.json)


def rows_of(options: argparse.Namespace) -> list[Row]:
    """What rank 0 of as many processes as the most GPUs measures."""
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe()
    with TemporaryDirectory() as folder:
        processes = [
            context.Process(target=serve, args=(rank, options, f"{folder}/store", theirs))
            for rank in range(max(options.gpus))
        ]
        for process in processes:
            process.start()
        theirs.close()
        wait([ours, *(process.sentinel for process in processes)])
        try:
            rows: list[Row] = ours.recv() if ours.poll() else []
        except EOFError:
            rows = []
        if not rows:
            for process in processes:
                process.kill()  # which otherwise wait for the one that failed
            sys.exit("a process has failed; its error is above")
        for process in processes:
            process.join()
    return rows


def serve(rank: int, options: argparse.Namespace, store: str, pipe: Connection) -> None:
    """One rank. All ranks measure in step; rank 0 sends the rows."""
    device = torch.device(options.device, rank) if options.device == "cuda" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)
    most = max(options.gpus)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{store}", rank=rank, world_size=most)
    groups = {count: dist.new_group(list(range(count))) for count in options.gpus}
    rows: list[Row] = []
    references: dict[tuple[str, str], Tensor] = {}
    with torch.inference_mode():
        for part in options.parts:
            for count in options.gpus:
                if rank < count:
                    ranks = Ranks(rank, count, groups[count])
                    for size, result, seconds in measured(part, ranks, options, device):
                        reference = references.setdefault((part, size), result)
                        rows.append(row_of(part, size, count, seconds, result, reference))
                dist.barrier()
    if rank == 0:
        pipe.send(rows)
    dist.barrier()
    dist.destroy_process_group()


def row_of(part: str, size: str, count: int, seconds: list[float], result: Tensor, reference: Tensor) -> Row:
    """Levels of 255 for frames; latents are compared in units of their standard deviation."""
    off = (result.float() - reference.float()).abs()
    of_frames = result.dtype == torch.uint8
    return {
        "part": part,
        "size": size,
        "GPUs": count,
        "ms": report.median_ms(seconds),
        "off by, levels": int(off.max()) if of_frames else None,
        "off by more than 1, %": 100 * float((off > 1).float().mean()) if of_frames else None,
        "off by, of std": None if of_frames else float(off.max() / reference.float().std()),
    }


def measured(
    part: str, ranks: Ranks, options: argparse.Namespace, device: torch.device
) -> Iterator[tuple[str, Tensor, list[float]]]:
    """Each size, with the result on the CPU and the seconds of each round."""
    prepare = {"decode": decoding, "encode": encoding, "diffusion": diffusion}[part]
    run = prepare(ranks, device)
    for size in options.sizes:
        width, height = (int(side) for side in size.split("x"))
        frames = options.overlap if part == "encode" else options.frames
        given = torch.Generator().manual_seed(1), (frames - 1) // 8 + 1, height // 32, width // 32
        call = run(*given)
        result = call()
        call()
        graphs, seconds = counters["stats"]["unique_graphs"], []
        for _ in range(options.rounds):
            synchronize(ranks, device)
            began = time.perf_counter()
            call()
            synchronize(ranks, device)
            seconds.append(time.perf_counter() - began)
        assert counters["stats"]["unique_graphs"] == graphs, "something was compiled after the warm-up"
        yield size, result.cpu(), seconds


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
