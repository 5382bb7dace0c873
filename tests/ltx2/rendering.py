"""Rendering a small segment with the pipeline, without an engine."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ltx2.sampling import NO_GUIDANCE

SIGMAS = [1.0, 0.9, 0.5]


def render(pipeline: Any, prompt: str = "a boat", **settings: Any) -> tuple[Tensor, Tensor]:
    """Render with `settings`; return denormalised video and audio latents."""
    call = {
        "prompt": prompt,
        "width": 64,
        "height": 64,
        "num_frames": 17,
        "sigmas": SIGMAS,
        "num_inference_steps": len(SIGMAS),
        "generator": torch.Generator().manual_seed(1),
        "output_type": "latent",
        "return_dict": False,
    }
    with torch.inference_mode():
        video, audio = pipeline(**(call | NO_GUIDANCE | settings))
    return video, audio
