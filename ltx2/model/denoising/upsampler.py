"""The latent upsampler between two stages, which doubles width and height of video latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.ltx2 import LTX2LatentUpsamplerModel
from safetensors.torch import load_file
from torch import Tensor

from ltx2.checkpoints.formats.weight_files import check_loaded
from ltx2.checkpoints.hub.fetching import fetch_folder, fetch_upsampler
from ltx2.checkpoints.resolve import UPSAMPLER_FOLDER, HubModel
from ltx2.checkpoints.upsampler_files import own_upsampler, problem_with_upsampler, resolve_upsampler, upsampler_config
from ltx2.errors import RequestError
from ltx2.model.finite import check_finite_weights
from ltx2.model.pipeline import LongtakePipeline
from ltx2.model.weights.loading import load_errors, load_part


class LatentUpsampler:
    """The upsampler of one checkpoint, or one that a request names, loaded on first use: 1 GB.

    Only segments of two stages need it. source: the checkpoint; None is a checkpoint without an upsampler.
    """

    def __init__(self, pipeline: LongtakePipeline, source: Path | HubModel | None) -> None:
        self._pipeline = pipeline
        self._source = source
        self._model: LTX2LatentUpsamplerModel | None = None
        self._named: str | None = None

    def load(self, named: str | None = None) -> None:
        """Load the upsampler onto the pipeline's device, if it is not loaded, instead of any other.

        named: see `resolve_upsampler`; None is the checkpoint's own.

        Raises:
            RequestError: the checkpoint has none, or it does not double width and height.
            CheckpointError: it does not exist, cannot be fetched or read, or has weights that are not finite.
            EngineMemoryError: it does not fit.
        """
        if self._model is None or self._named != named:
            self._model = None
            place = self._folder() if named is None else _find(named)
            model = _loaded(place, self._pipeline.vae.dtype, self._pipeline._execution_device)
            _check_config(place, model.config, self._pipeline.vae.config.latent_channels)
            check_finite_weights(model, str(place))
            self._model, self._named = model, named

    def __call__(self, latents: Tensor) -> Tensor:
        """Upsample VAE latents `[B, C, F, H, W]` to float32 `[B, C, F, 2H, 2W]`. `load` must be called first."""
        assert self._model is not None
        upsampled: Tensor = self._model(latents.to(self._model.dtype))
        return upsampled.float()

    def _folder(self) -> Path:
        source = self._source
        if isinstance(source, HubModel):
            source = fetch_folder(source, UPSAMPLER_FOLDER)
        return own_upsampler(source)


def _find(named: str) -> Path:
    found = resolve_upsampler(named)
    return found if isinstance(found, Path) else fetch_upsampler(found)


def _loaded(place: Path, dtype: torch.dtype, device: torch.device) -> LTX2LatentUpsamplerModel:
    with load_errors(place):
        model = load_part(LTX2LatentUpsamplerModel, place, dtype) if place.is_dir() else _from_file(place, dtype)
        return model.eval().to(device)


def _from_file(file: Path, dtype: torch.dtype) -> LTX2LatentUpsamplerModel:
    """A single file has the names of diffusers, but no config."""
    model = LTX2LatentUpsamplerModel(**upsampler_config(file))
    missing, unexpected = model.load_state_dict(load_file(file), strict=False)
    check_loaded(file, {"missing_keys": missing, "unexpected_keys": unexpected})
    return model.to(dtype)


def _check_config(place: Path, config: Any, channels: int) -> None:
    if problem := problem_with_upsampler(config, channels):
        raise RequestError(f"stages is 2, but {place} {problem}")
