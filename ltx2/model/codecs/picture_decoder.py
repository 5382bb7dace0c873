"""Decoding of latents to frames: by the convolutional VAE, or by the diffusion decoder of LTX-2.5.

Some convolutional VAEs, and the diffusion decoder, are given noise. It depends on a seed alone, so that the same
latents decode to the same frames again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import LTX2VideoDiffusionDecoderModel
from torch import Tensor

from ltx2.checkpoints.diffusion_decoder import DIFFUSION_FOLDER, check_decoder_config, smallest_picture
from ltx2.checkpoints.hub.fetching import fetch_folder
from ltx2.checkpoints.resolve import HubModel
from ltx2.errors import RequestError
from ltx2.model.codecs.host_copies import Checked
from ltx2.model.codecs.neighborhood import NeighborhoodProcessor
from ltx2.model.finite import all_finite, check_finite_weights
from ltx2.model.pipeline import LongtakePipeline
from ltx2.model.weights.loading import load_errors, load_part
from ltx2.parallel.halo import add_halos, working_on
from ltx2.parallel.ranks import Ranks
from ltx2.parallel.strips import Strip, strip_of
from ltx2.parallel.tiles import decode_in_tiles
from ltx2.request import Decoding, SegmentRequest
from ltx2.sampling import Decoder

SEED_OFFSET = 20_000
"""The noise of a decoder has its own generator, seeded with the segment's seed plus this."""
TIMESTEP, NOISE_SCALE = 0.05, 0.025
"""What a VAE with `timestep_conditioning` is given, as in the code of the model's authors."""


class PictureDecoder:
    """Decodes with the decoders of one checkpoint. The diffusion decoder, 0.8 GB, is loaded on first use.

    source: the checkpoint; None is a checkpoint without a diffusion decoder. ranks: they decode each picture together,
    the VAE in strips and the diffusion decoder in tiles, and all get all frames.
    """

    def __init__(self, pipeline: LongtakePipeline, source: Path | HubModel | None, ranks: Ranks | None = None) -> None:
        self._pipeline = pipeline
        self._source = source
        self._ranks = ranks
        self._halos = None if ranks is None else add_halos(pipeline.vae.decoder)
        self._diffusion: Any = None

    def decoding_of(self, request: SegmentRequest) -> Decoding:
        """How the segment of `request` is decoded. Loads the diffusion decoder if it is asked for.

        Raises:
            RequestError: the checkpoint has none, or one that cannot decode such a small picture.
            CheckpointError, EngineMemoryError: it cannot be loaded.
        """
        decoder = request.sampling.decoder
        if decoder == Decoder.DIFFUSION:
            config = self._load().config
            smallest = smallest_picture(config)
            size = (request.width, request.height, request.timing.shape.frames)
            if any(given < least for given, least in zip(size, smallest, strict=True)):
                raise RequestError(
                    f"the diffusion decoder cannot decode {size[0]}x{size[1]} pixels and {size[2]} frames; it needs at "
                    f"least {smallest[0]}x{smallest[1]} and {smallest[2]}"
                )
        needs_noise = decoder == Decoder.DIFFUSION or self._pipeline.vae.config.timestep_conditioning
        return Decoding(decoder, (request.seed + SEED_OFFSET) % 2**63 if needs_noise else None)

    def __call__(self, latents: Tensor, decoding: Decoding) -> Checked:
        """Frames, uint8 `[n, H, W, 3]`, of latents `[1, C, F, H/32, W/32]`, on the pipeline's device."""
        if decoding.decoder == Decoder.DIFFUSION:
            return _checked_frames(self._diffused(latents, decoding))
        vae, timestep = self._pipeline.vae, None
        latents = latents.to(vae.dtype)
        if vae.config.timestep_conditioning:
            timestep = torch.tensor([TIMESTEP], device=latents.device, dtype=vae.dtype)
            latents = self._noised(latents, decoding)
        if self._halos is None or (strip := self._strip_of(latents)) is None:
            return _checked_frames(vae.decode(latents, timestep).sample)
        with working_on(self._halos, strip):
            part = vae.decode(strip.cut(latents), timestep).sample
        return _checked_frames(part, strip)

    def _strip_of(self, latents: Tensor) -> Strip | None:
        """This rank's strip of a picture. None: the picture is small, or decoded in tiles, and each rank decodes it."""
        if self._ranks is None or self._pipeline.vae.use_tiling:
            return None
        return strip_of(self._ranks, *latents.shape[-2:])

    def _diffused(self, latents: Tensor, decoding: Decoding) -> Tensor:
        model, generator = self._load(), _generator(decoding)
        if self._ranks is not None:
            return decode_in_tiles(model, latents.to(model.dtype), generator, self._ranks)
        pixels: Tensor = model.decode(latents.to(model.dtype), generator=generator).sample
        return pixels

    def _noised(self, latents: Tensor, decoding: Decoding) -> Tensor:
        """Latents mixed with noise where they are normalised: NOISE_SCALE of it, and the rest of them."""
        vae = self._pipeline.vae
        noise = torch.randn(latents.shape, generator=_generator(decoding), dtype=latents.dtype).to(latents.device)
        raw = self._pipeline._denormalize_latents(noise, vae.latents_mean, vae.latents_std, vae.config.scaling_factor)
        mixed: Tensor = (1 - NOISE_SCALE) * latents + NOISE_SCALE * raw
        return mixed

    def _load(self) -> Any:
        if self._diffusion is None:
            folder = self._folder()
            check_decoder_config(folder, self._pipeline.vae.config.latent_channels)
            self._diffusion = _loaded(folder, self._pipeline.vae.dtype, self._pipeline._execution_device)
        return self._diffusion

    def _folder(self) -> Path:
        source = self._source
        if isinstance(source, HubModel):
            source = fetch_folder(source, DIFFUSION_FOLDER)
        if source is None or not (source / DIFFUSION_FOLDER / "config.json").is_file():
            raise RequestError(
                f"decoder is diffusion, but {source or 'this model'} has no {DIFFUSION_FOLDER}: remove it, or use a "
                "model that has one, such as Lightricks/LTX-2.5-Diffusers"
            )
        return source / DIFFUSION_FOLDER


def _checked_frames(pixels: Tensor, strip: Strip | None = None) -> Checked:
    """Frames, uint8 `[n, H, W, 3]`, of pixels `[1, 3, n, H, W]` in [-1, 1]. strip: if each rank has only this part."""
    finite = all_finite(pixels)
    levels = ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    if strip is not None:
        levels, finite = strip.join(levels), strip.all_true(finite)
    return Checked(levels[0].permute(1, 2, 3, 0).contiguous(), "pixels", finite)


def _generator(decoding: Decoding) -> torch.Generator:
    if decoding.noise_seed is None:
        raise RequestError("this model decodes with noise, but the seed of the noise is not known")
    return torch.Generator("cpu").manual_seed(decoding.noise_seed)  # the same noise on every device


def _loaded(folder: Path, dtype: torch.dtype, device: torch.device) -> Any:
    with load_errors(folder):
        model = load_part(LTX2VideoDiffusionDecoderModel, folder, dtype)
        check_finite_weights(model, str(folder))
        model.set_attn_processor(NeighborhoodProcessor())
        model.enable_tiling()  # always, so that bytes do not depend on the memory that is free
        return model.eval().to(device)
