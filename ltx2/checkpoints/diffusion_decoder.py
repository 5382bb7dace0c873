"""The config of the diffusion decoder of LTX-2.5: what it can decode. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

from ltx2.checkpoints.formats.weight_files import read_config
from ltx2.errors import CheckpointError
from ltx2.timeline import TEMPORAL_COMPRESSION

DIFFUSION_FOLDER = "diffusion_decoder"
CLASS = "LTX2VideoDiffusionDecoderModel"
_FIXED = {"spatial_compression_ratio": 32, "temporal_compression_ratio": TEMPORAL_COMPRESSION, "out_channels": 3}
# The published values, which are the defaults of diffusers.
_KERNELS = ((3, 7, 7), (3, 7, 7), (3, 5, 5), (3, 5, 5))
_STRIDES = ((1, 2, 2), (2, 1, 1), (2, 2, 2), (2, 2, 2))
_LAST_KERNEL = (11, 11, 11)


def check_decoder_config(folder: Path, channels: int) -> None:
    """Check the config of the diffusion decoder in `folder`. channels: of the model's latents.

    Raises:
        CheckpointError: it decodes other latents; names the key.
    """
    config = read_config(folder, CLASS)
    for key, value in (_FIXED | {"latent_channels": channels}).items():
        found = config.get(key, 128 if key == "latent_channels" else value)
        if found != value:
            raise CheckpointError(f"{folder}: {key} is {found!r:.100}; it must be {value}")


def smallest_picture(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """The least width, height and frames that a decoder with this config can decode.

    In each stage, the grid of tokens must be as large as the window of its attention.
    """
    kernels = [*config.get("decoder_stage_kernels", _KERNELS), config.get("decoder_stage5_kernel", _LAST_KERNEL)]
    strides = config.get("decoder_upsample_strides", _STRIDES)
    least = []
    for axis in (2, 1):
        scales = accumulate((stride[axis] for stride in strides), initial=1, func=lambda scale, stride: scale * stride)
        least.append(32 * max(math.ceil(kernel[axis] / scale) for kernel, scale in zip(kernels, scales, strict=True)))
    latents = math.ceil((kernels[-1][0] - 1) / TEMPORAL_COMPRESSION)  # earlier stages see two more latents
    return least[0], least[1], TEMPORAL_COMPRESSION * latents + 1
