"""The mark of a video's first latent frame, which LTX-2.5 has an embedding for.

The first latent stands for a single frame, all others for eight. 2.5 was trained with its tokens marked, in every
video. The first latent of a continuation is marked as well: it is encoded from a single frame of the segment before.
diffusers 0.42.1 passes the mark only in its pipelines for keyframes.
"""

from __future__ import annotations

from typing import Any

from torch import nn


def mark_first_latents(transformer: Any) -> None:
    """Make an `LTX2VideoTransformer3DModel` mark the first latent frame in every call that does not say what to mark.

    Nothing changes for 2.0 and 2.3. Calls must name `hidden_states`, `height` and `width`, as diffusers' pipelines do.
    """
    if transformer.config.use_keyframes_abs_pos_embedding:
        transformer.register_forward_pre_hook(_mark, with_kwargs=True)


def _mark(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    if kwargs.get("video_keyframes_mask") is not None:
        return args, kwargs
    tokens = kwargs["hidden_states"]
    mask = tokens.new_zeros(*tokens.shape[:2], 1)
    mask[:, : kwargs["height"] * kwargs["width"]] = 1
    return args, kwargs | {"video_keyframes_mask": mask}
