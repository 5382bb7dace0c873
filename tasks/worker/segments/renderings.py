"""Renders a segment several times if its job asks for that, and chooses the rendering that joins best."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from ltx2.request import SegmentOutput, SegmentRequest
from tasks.jobs.committed import SEED_LIMIT
from tasks.jobs.results import Claim
from tasks.jobs.units import UnitKind
from tasks.spec.head import JobHead

if TYPE_CHECKING:
    from ltx2 import LTX2ContinuationState
    from ltx2.quality.joins import Join

log = logging.getLogger(__name__)
SEED_STEP = 7_368_787  # another prime than that of takes, so that no take repeats a rendering


@dataclass(frozen=True, slots=True)
class Rendering:
    """What was rendered, and what for. started, ended: seconds since the epoch. join: if it was measured.

    Between the two there are as many seconds as passed, also if the clock was set meanwhile.
    """

    request: SegmentRequest
    output: SegmentOutput
    started: float
    ended: float
    join: Join | None = None

    @classmethod
    def made(cls, request: SegmentRequest, run: Callable[[SegmentRequest], SegmentOutput]) -> Self:
        """Render `request`."""
        started, began = time.time(), time.monotonic()
        return cls(request, run(request), started, started + time.monotonic() - began)


def has_choice(claim: Claim, state: LTX2ContinuationState | None) -> bool:
    """Whether a claim is about a segment that is rendered several times.

    What continues nothing has no join to measure. A repair renders what was chosen, and a take what was asked for.
    """
    is_continuation = state is not None and bool(state.video_frames)
    return claim.unit.kind == UnitKind.SEGMENT and is_continuation and claim.head.renderings != (1, 1)


def seed_of(claim: Claim, seed: int) -> int:
    """The seed of a segment that has this one: a repair has that of the rendering that was chosen."""
    if claim.is_repair and claim.own is not None and claim.head.renderings != (1, 1):
        return claim.own.seed
    return seed


def best(
    head: JobHead,
    request: SegmentRequest,
    state: LTX2ContinuationState,
    run: Callable[[SegmentRequest], SegmentOutput],
    keep: Callable[[Rendering], None],
) -> Rendering:
    """The rendering whose join is best; of equal ones the first. run: renders one. keep: gets each of the others."""
    from ltx2.quality.joins import join_of

    chosen: Rendering | None = None
    tail = state.video_frames or []
    fewest, most = head.renderings
    for number in range(most):
        if number >= fewest and chosen is not None and not _join(chosen).wrong:
            break
        one = Rendering.made(replace(request, seed=(request.seed + SEED_STEP * number) % SEED_LIMIT), run)
        output = one.output
        join = join_of(tail, output.frames, output.sound.T, output.audio_rate, request.timing)
        problems = ", ".join(join.wrong) or "the join is within bounds"
        log.info("seed %d: %.2f of the bounds: %s", one.request.seed, join.excess, problems)
        one = replace(one, join=join)
        if chosen is None:
            chosen = one
        elif join.rank < _join(chosen).rank:
            keep(chosen)
            chosen = one
        else:
            keep(one)
    assert chosen is not None
    return chosen


def _join(rendering: Rendering) -> Join:
    assert rendering.join is not None
    return rendering.join
