"""Decides how long a segment with `frames: auto` is, before it is rendered."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from ltx2.timeline import exact, nearest_length
from tasks.jobs.results import Claim
from tasks.worker.claims.lease import Lease
from tasks.worker.claims.run_claimed import SkippedError
from tasks.worker.context import WorkerContext

if TYPE_CHECKING:
    from tasks.worker.engines import SegmentEngine

log = logging.getLogger(__name__)


def with_length(context: WorkerContext, lease: Lease, engine: SegmentEngine) -> Claim:
    """The claim of `lease`, whose segment has a length: the record has it from now on.

    Raises:
        SkippedError: the claim is lost. RequestError: the model has no duration head.
    """
    claim = lease.claim
    if claim.segment is None or not claim.segment.is_undecided:
        return claim
    seconds = engine.duration(claim.segment.prompt)
    frames = nearest_length(seconds, exact(claim.head.fps), claim.head.frames)
    segment = context.deployment.jobs.decide_frames(claim, frames)
    if segment is None:
        raise SkippedError("another worker holds this segment now")
    lease.move_to(replace(claim, segment=segment))
    log.info("length decided: %d frames", segment.frames, extra={"seconds": round(seconds, 3)})
    return lease.claim
