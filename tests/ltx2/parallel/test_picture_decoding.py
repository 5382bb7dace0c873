"""Pictures decoded by several ranks together are those that one rank decodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLLTX2Video, LTX2VideoDiffusionDecoderModel
from numpy.typing import NDArray
from torch import Tensor
from torch._dynamo.utils import counters

from ltx2.checkpoints.resolve import resolve_model
from ltx2.engine import Engine
from ltx2.model.codecs.neighborhood import NeighborhoodProcessor
from ltx2.model.codecs.picture_decoder import PictureDecoder
from ltx2.model.weights.loading import load_pipeline
from ltx2.parallel.encoding import share_encoder
from ltx2.parallel.halo import add_halos, working_on
from ltx2.parallel.ranks import Ranks
from ltx2.parallel.strips import Strip, strip_of
from ltx2.parallel.tiles import decode_in_tiles
from ltx2.request import Decoding
from ltx2.sampling import Decoder, Sampling
from tests.ltx2.model.denoising.test_denoiser import request_of
from tests.ltx2.parallel.processes import RankProcesses
from tests.ltx2.test_engine import FIRST, SECOND

SIZES = [(2, 7), (7, 3), (2, 4)]
"""Height and width in latents: strips along either axis, of unequal widths, and only two of them for three ranks."""


def latents_of(vae: Any, height: int, width: int, frames: int = 2) -> Tensor:
    """Latents `[1, C, frames, height, width]` with the statistics of the model's."""
    shape = (1, vae.config.latent_channels, frames, height, width)
    normal = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    mean, std = (part.view(1, -1, 1, 1, 1) for part in (vae.latents_mean, vae.latents_std))
    return normal.to(mean) * std + mean


def decode_frames(ranks: Ranks, model: str, decoding: Decoding, halo: bool) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Frames of each size: decoded by all ranks, and by this one alone. halo: whether strips see their neighbours."""
    source = resolve_model(model, Path())
    assert isinstance(source, Path)
    pipeline = load_pipeline(source, torch.float32)
    together, alone = PictureDecoder(pipeline, source, ranks), PictureDecoder(pipeline, source)
    decoded = []
    with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
        if not halo:
            patch.setattr(Strip, "with_neighbours", bordered)
        for height, width in SIZES:
            latents = latents_of(pipeline.vae, height, width)
            decoded.append((together(latents, decoding).values.numpy(), alone(latents, decoding).values.numpy()))
    return decoded


def bordered(strip: Strip, part: Tensor, width: int, mode: str) -> Tensor:
    """What a strip would see if it were a picture of its own."""
    around = [width if axis == strip.axis else 0 for axis in (4, 4, 3, 3, 2, 2)]
    return torch.nn.functional.pad(part, around, mode="constant" if mode == "zeros" else mode)


def find_not_finite(ranks: Ranks, model: str) -> tuple[bool, bool]:
    """Of latents that are not finite at their left border: whether this rank's frames and its strip are finite."""
    source = resolve_model(model, Path())
    assert isinstance(source, Path)
    pipeline = load_pipeline(source, torch.float32)
    together = PictureDecoder(pipeline, source, ranks)
    strips: list[Tensor] = []
    pipeline.vae.decoder.register_forward_hook(lambda *given: strips.append(given[2]))
    latents = latents_of(pipeline.vae, 1, 24, frames=1)
    latents[..., 0] = torch.nan
    with torch.inference_mode():
        return bool(together(latents, Decoding()).finite), bool(strips[0].isfinite().all())


def decode_exactly(ranks: Ranks, folder: Path, size: tuple[int, int]) -> float:
    """By how much the pixels of strips differ from those of the whole picture in float64."""
    vae = AutoencoderKLLTX2Video.from_pretrained(folder, torch_dtype=torch.float64)
    latents = latents_of(vae, *size)
    current, strip = add_halos(vae.decoder), strip_of(ranks, *size)
    assert current is not None
    assert strip is not None
    with torch.inference_mode():
        whole = vae.decode(latents).sample
        with working_on(current, strip):
            part = vae.decode(strip.cut(latents)).sample
        return float((strip.join(part) - whole).abs().max())


def encode_exactly(ranks: Ranks, folder: Path, size: tuple[int, int]) -> float:
    """By how much latents that ranks encode together differ from those of one in float64."""
    vae = AutoencoderKLLTX2Video.from_pretrained(folder, torch_dtype=torch.float64)
    height, width = size
    shape = (1, 3, 9, 32 * height, 32 * width)
    pixels = torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 - 1
    with torch.inference_mode():
        alone = vae.encode(pixels).latent_dist.mode()
        calls: list[tuple[int, ...]] = []
        vae.encoder.conv_in.register_forward_pre_hook(lambda _, args: calls.append(tuple(args[0].shape)))
        share_encoder(vae, ranks)
        together = vae.encode(pixels).latent_dist.mode()
    assert calls[0][3] * calls[0][4] < 8 * height * 8 * width  # patches of 4x4 pixels: not the whole picture
    return float((together - alone).abs().max())


def decode_tiles(ranks: Ranks, folder: Path, size: tuple[int, int, int]) -> tuple[NDArray[Any], NDArray[Any], int]:
    """Pixels of the diffusion decoder: of all ranks, and of this one alone; how many tiles this rank has decoded."""
    model = LTX2VideoDiffusionDecoderModel.from_pretrained(folder)
    model.set_attn_processor(NeighborhoodProcessor())
    model.enable_tiling(64, 64, 16, 32, 32, 8)
    latents = torch.randn(1, 16, *size, generator=torch.Generator().manual_seed(1))
    decoded: list[None] = []
    with torch.inference_mode():
        alone = model.decode(latents, generator=torch.Generator().manual_seed(2)).sample
        counting = model.decoder.upsamples[-1].register_forward_pre_hook(lambda *_: decoded.append(None))
        together = decode_in_tiles(model, latents, torch.Generator().manual_seed(2), ranks)
        counting.remove()
        again = model.decode(latents, generator=torch.Generator().manual_seed(2)).sample
    assert torch.equal(alone, again)  # as before, on its own
    return together.numpy(), alone.numpy(), len(decoded)


def render(ranks: Ranks, folder: Path) -> tuple[list[NDArray[Any]], list[NDArray[Any]], set[int]]:
    """Frames of two segments: of this rank alone, and of all; and how wide the VAE's parts of pictures were then."""
    alone, together = Engine.load(str(folder), device="cpu"), Engine.load(str(folder), device="cpu", ranks=ranks)
    widths: set[int] = set()
    for model in (together.pipeline.vae.encoder, together.pipeline.vae.decoder):
        model.conv_in.register_forward_pre_hook(lambda _, args: widths.add(args[0].shape[-1]))
    frames = []
    for engine in (alone, together):
        first = engine.run(request_of(Sampling(sigmas=(1.0, 0.6)), FIRST))
        second = engine.run(request_of(Sampling(sigmas=(1.0, 0.6)), SECOND), first.state)
        frames.append([first.frames, second.frames])
    return frames[0], frames[1], widths


def compile_convolutions(ranks: Ranks) -> tuple[float, int]:
    """How far a compiled model of strips is from the whole, in float64, and how often it was compiled for two sizes."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv3d(2, 2, 3, padding=1), torch.nn.Conv3d(2, 2, 3, padding=1)).double()
    wide, high = torch.randn(1, 2, 3, 3, 6).double(), torch.randn(1, 2, 3, 6, 3).double()
    off = 0.0
    with torch.inference_mode():
        expected = [model(picture) for picture in (wide, high)]
        current = add_halos(model)
        assert current is not None
        compiled, before = torch.compile(model, backend="eager", fullgraph=True, dynamic=False), graphs()
        for _ in range(2):
            for picture, whole in zip((wide, high), expected, strict=True):
                strip = strip_of(ranks, *picture.shape[-2:])
                assert strip is not None
                with working_on(current, strip):
                    part = compiled(strip.cut(picture))
                off = max(off, float((strip.join(part) - whole).abs().max()))
    return off, graphs() - before


def graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


@pytest.mark.parametrize(
    ("count", "name"),
    [(3, "tiny"), (2, "tiny-2.0"), (3, "tiny-2.5"), (2, "shapes"), (3, "noisy")],
)
def test_frames_decoded_in_strips_are_those_of_the_whole_picture(
    ranks: RankProcesses, models: dict[str, Path], noisy_model: Path, count: int, name: str
) -> None:
    # Given latents of wide and high pictures
    model = str(models.get(name, noisy_model if name == "noisy" else name))
    # When they are decoded by ranks together
    results = ranks.run(count, decode_frames, model, Decoding(noise_seed=4), True)
    # Then all ranks have the frames that one has alone, within one level of 255
    for together, alone in (pair for result in results for pair in result):
        assert together.shape == alone.shape
        assert np.abs(together.astype(int) - alone).max() <= 1
        assert np.mean(together != alone) < 5e-4
    for size in range(len(SIZES)):
        assert all(np.array_equal(result[size][0], results[0][size][0]) for result in results)


def test_strips_that_do_not_see_their_neighbours_differ(ranks: RankProcesses, models: dict[str, Path]) -> None:
    [(together, alone), *_], _ = ranks.run(2, decode_frames, str(models["tiny"]), Decoding(), False)
    assert np.abs(together.astype(int) - alone).max() > 1


@pytest.mark.parametrize("name", ["tiny", "tiny-2.0"])  # which pad with zeros, and with reflections
def test_strips_differ_from_the_whole_picture_by_rounding_alone(
    ranks: RankProcesses, models: dict[str, Path], name: str
) -> None:
    for size in ((3, 7), (7, 2)):
        assert max(ranks.run(3, decode_exactly, models[name] / "vae", size)) < 1e-12
        assert max(ranks.run(3, encode_exactly, models[name] / "vae", size)) < 1e-12


@pytest.mark.parametrize("count", [2, 3])
def test_tiles_of_the_diffusion_decoder_are_shared_and_give_the_same_pixels(
    ranks: RankProcesses, models: dict[str, Path], count: int
) -> None:
    folder = models["tiny-2.5"] / "diffusion_decoder"
    # Given a picture of many tiles
    results = ranks.run(count, decode_tiles, folder, (4, 2, 4))
    # Then ranks have decoded different ones, and all have all pixels
    shares = [tiles for _, _, tiles in results]
    assert sum(shares) > 2 * count
    assert min(shares) > 0
    assert all(np.array_equal(together, alone) for together, alone, _ in results)
    # and a picture of one tile is decoded by one of them
    results = ranks.run(count, decode_tiles, folder, (2, 2, 2))
    assert [tiles for _, _, tiles in results] == [1] + [0] * (count - 1)
    assert all(np.array_equal(together, alone) for together, alone, _ in results)


def test_a_picture_by_the_diffusion_decoder_has_the_same_frames(ranks: RankProcesses, models: dict[str, Path]) -> None:
    results = ranks.run(2, decode_frames, str(models["tiny-2.5"]), Decoding(Decoder.DIFFUSION, 3), True)
    assert all(np.array_equal(together, alone) for result in results for together, alone in result)


def test_an_engine_decodes_and_encodes_in_strips(ranks: RankProcesses, models: dict[str, Path]) -> None:
    for alone, together, widths in ranks.run(2, render, models["tiny"]):
        assert all(np.abs(one.astype(int) - other).max() <= 1 for one, other in zip(together, alone, strict=True))
        assert widths == {16, 2}  # of 32 patches of the encoder, and of 4 latents


def test_strips_are_compiled_as_one_graph_and_once_per_size(ranks: RankProcesses) -> None:
    for off, compiled in ranks.run(3, compile_convolutions):
        assert off < 1e-12
        assert compiled == 2


def test_frames_are_not_finite_on_all_ranks_if_those_of_one_strip_are_not(
    ranks: RankProcesses, models: dict[str, Path]
) -> None:
    assert ranks.run(2, find_not_finite, str(models["tiny"])) == [(False, False), (False, True)]
