"""Twice the width and height of video latents: the upsampler that published checkpoints keep beside the pipeline."""

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
    """The upsampler of one checkpoint, loaded when it is first needed: 1 GB that segments of one stage do without.

    source: where the checkpoint is; None where nobody knows, which is a checkpoint without an upsampler.
    """

    def __init__(self, pipeline: LongtakePipeline, source: Path | HubModel | None) -> None:
        self._pipeline = pipeline
        self._source = source
        self._model: LTX2LatentUpsamplerModel | None = None

    def load(self) -> None:
        """Load it onto the pipeline's device unless it is there.

        Raises RequestError where the checkpoint has none, or one that is not for twice the size; CheckpointError when
        it cannot be fetched or read, EngineMemoryError when it does not fit.
        """
        if self._model is None:
            folder = self._folder()
            model = _loaded(folder, self._pipeline.vae.dtype, self._pipeline._execution_device)
            _check_config(folder, model.config, self._pipeline.vae.config.latent_channels)
            self._model = model

    def __call__(self, latents: Tensor) -> Tensor:
        """Video latents `[B, C, F, 2H, 2W]`, float32, of `[B, C, F, H, W]`, both as the VAE has them. Load it first."""
        assert self._model is not None
        upsampled: Tensor = self._model(latents.to(self._model.dtype))
        return upsampled.float()

    def _folder(self) -> Path:
        source = self._source
        if isinstance(source, HubModel):
            source = fetch_folder(source, UPSAMPLER_FOLDER)
        if source is None or not (source / UPSAMPLER_FOLDER / "config.json").is_file():
            raise RequestError(
                f"stages is 2, and {source or 'this model'} has no {UPSAMPLER_FOLDER}: render it in one stage, or put the "
                f"{UPSAMPLER_FOLDER} folder of a published LTX-2 of the same version beside its other folders"
            )
        return source / UPSAMPLER_FOLDER


def _loaded(folder: Path, dtype: torch.dtype, device: torch.device) -> LTX2LatentUpsamplerModel:
    check_weights(folder, WEIGHTS["vae"])  # all of diffusers' models call their files alike
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
            f"stages is 2, and {folder} upsamples {found} channels, {space:g} times in space and {time} times in time; "
            f"{channels} channels, 2 times and 1 time are needed"
        )
