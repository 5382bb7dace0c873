"""Renders a segment several times if its job asks for that, and chooses the rendering that joins best."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ltx2.request import SegmentOutput, SegmentRequest
from tasks.jobs.committed import SEED_LIMIT
from tasks.jobs.results import Claim
from tasks.jobs.units import UnitKind
from tasks.spec.schema import JobHead

if TYPE_CHECKING:
    from ltx2 import LTX2ContinuationState

log = logging.getLogger(__name__)
SEED_STEP = 7_368_787  # another prime than that of takes, so that no take repeats a rendering


@dataclass(frozen=True, slots=True)
class Rendering:
    """What was rendered, and what for."""

    request: SegmentRequest
    output: SegmentOutput


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
) -> Rendering:
    """The rendering whose join is best; of equal ones the first. run: renders one."""
    from ltx2.quality.joins import Join, join_of

    found: tuple[Rendering, Join] | None = None
    tail = state.video_frames or []
    fewest, most = head.renderings
    for number in range(most):
        if number >= fewest and found is not None and not found[1].wrong:
            break
        one = replace(request, seed=(request.seed + SEED_STEP * number) % SEED_LIMIT)
        output = run(one)
        join = join_of(tail, output.frames, output.sound.T, output.audio_rate, request.timing)
        problems = ", ".join(join.wrong) or "the join is within bounds"
        log.info("seed %d: %.2f of the bounds: %s", one.seed, join.excess, problems)
        if found is None or join.rank < found[1].rank:
            found = Rendering(one, output), join
    assert found is not None
    return found[0]
