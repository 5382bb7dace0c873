"""Dissolves: the first frames of a new scene, blended with the last ones of the scene before, in its clip."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ltx2.media.crossfade import crossfaded
from ltx2.request import SegmentOutput
from tasks.errors import MessageError
from tasks.jobs.results import Claim
from tasks.worker.claims.failures import reading_from
from tasks.worker.context import WorkerContext

if TYPE_CHECKING:
    from tasks.worker.engines import SegmentEngine

Frames = NDArray[np.uint8]


def frames_to_dissolve(context: WorkerContext, claim: Claim, engine: SegmentEngine) -> Frames | None:
    """The last frames of the segment before, uint8 `[d, H, W, 3]`, that a segment dissolves from; None: it does not.

    They are decoded from the stored latents of the take that the film shows, so a clip that is made again has the same
    bytes as long as none is chosen.

    Raises:
        InputLostError: the latents are missing or damaged.
    """
    from ltx2.state.arrays import decode_latents

    count = claim.timing.dissolve
    if not count:
        return None
    previous = claim.previous
    if previous is None or previous.latents is None:
        raise MessageError(f"segment {claim.index} of job {claim.job_id} dissolves from a segment without latents")
    with reading_from(claim.index - 1, claim.from_take):
        latents = context.deployment.blobs.get(previous.latents)
    frames, _ = engine.decode(*decode_latents(latents), previous.decoding)
    return np.asarray(frames[-count:])


def dissolved(frames: Any, before: Frames | None) -> Any:
    """The frames of a clip: those of a segment that is a new scene, of which the first ones dissolve from `before`."""
    if before is None:
        return frames
    return np.concatenate([crossfaded(before, frames[: len(before)]), frames[len(before) :]])


def with_dissolve(output: SegmentOutput, before: Frames | None) -> SegmentOutput:
    """`output` with the frames of its clip; its state and latents stay as they are."""
    return output if before is None else replace(output, frames=dissolved(output.frames, before))
