"""The latent upsampler of published checkpoints, which doubles width and height of video latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.ltx2 import LTX2LatentUpsamplerModel
from diffusers.utils import is_accelerate_available
from safetensors import SafetensorError
from torch import Tensor

from ltx2.checkpoints.hub import fetch_folder
from ltx2.checkpoints.progress_bars import no_progress_bars
from ltx2.checkpoints.resolve import UPSAMPLER_FOLDER, WEIGHTS, HubModel
from ltx2.checkpoints.weight_files import check_loaded, check_weights
from ltx2.errors import CheckpointError, EngineMemoryError, RequestError
from ltx2.model.pipeline import LongtakePipeline


class LatentUpsampler:
    """The upsampler of one checkpoint, loaded on first use: 1 GB that only two-stage segments need.

    source: the checkpoint; None is a checkpoint without an upsampler.
    """

    def __init__(self, pipeline: LongtakePipeline, source: Path | HubModel | None) -> None:
        self._pipeline = pipeline
        self._source = source
        self._model: LTX2LatentUpsamplerModel | None = None

    def load(self) -> None:
        """Load the upsampler onto the pipeline's device, if it is not loaded.

        Raises:
            RequestError: the checkpoint has none, or one that does not double width and height.
            CheckpointError: it cannot be fetched or read.
            EngineMemoryError: it does not fit.
        """
        if self._model is None:
            folder = self._folder()
            model = _loaded(folder, self._pipeline.vae.dtype, self._pipeline._execution_device)
            _check_config(folder, model.config, self._pipeline.vae.config.latent_channels)
            self._model = model

    def __call__(self, latents: Tensor) -> Tensor:
        """Upsample VAE latents `[B, C, F, H, W]` to float32 `[B, C, F, 2H, 2W]`. `load` must be called first."""
        assert self._model is not None
        upsampled: Tensor = self._model(latents.to(self._model.dtype))
        return upsampled.float()

    def _folder(self) -> Path:
        source = self._source
        if isinstance(source, HubModel):
            source = fetch_folder(source, UPSAMPLER_FOLDER)
        if source is None or not (source / UPSAMPLER_FOLDER / "config.json").is_file():
            raise RequestError(
                f"stages is 2, but {source or 'this model'} has no {UPSAMPLER_FOLDER}: use one stage, or add the "
                f"{UPSAMPLER_FOLDER} folder of a published LTX-2 of the same version"
            )
        return source / UPSAMPLER_FOLDER


def _loaded(folder: Path, dtype: torch.dtype, device: torch.device) -> LTX2LatentUpsamplerModel:
    check_weights(folder, WEIGHTS["vae"])  # all models of diffusers have the same file names
    try:
        with no_progress_bars():
            model, info = LTX2LatentUpsamplerModel.from_pretrained(
                folder,
                torch_dtype=dtype,
                low_cpu_mem_usage=is_accelerate_available(),
                use_safetensors=True,
                output_loading_info=True,
            )
        check_loaded(folder, info)
        return model.eval().to(device)
    except (torch.OutOfMemoryError, MemoryError) as exc:
        raise EngineMemoryError(f"{folder} does not fit into memory: {exc}") from exc
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as exc:
        raise CheckpointError(f"cannot load {folder}: {exc}") from exc


def _check_config(folder: Path, config: Any, channels: int) -> None:
    space = 1.0
    if config.spatial_upsample:
        space = config.rational_spatial_scale if config.use_rational_resampler else 2.0
    found, time = config.in_channels, 2 if config.temporal_upsample else 1
    if (found, space, time) != (channels, 2.0, 1):
        raise RequestError(
            f"stages is 2, but {folder} upsamples {found} channels, {space:g} times in space and {time} times in time; "
            f"it must be {channels} channels, 2 times and 1 time"
        )
