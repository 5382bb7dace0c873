"""The life of a segment: claim, hydrate, run, store, commit, chain, clip."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery import Task

from ltx2.errors import SegmentCancelledError
from ltx2.segment import SegmentOutput, SegmentRequest
from ltx2.timeline import SegmentShape, SegmentTiming, first_timing, next_timing
from tasks import handoff as states
from tasks import leaving
from tasks.application import app
from tasks.broker import SEGMENT_TASK, SEGMENTS, own_queue
from tasks.clip import make_beside
from tasks.failures import InputLostError, give_up, reading_from, repair
from tasks.image import first_frame
from tasks.lease import Lease
from tasks.points import reach
from tasks.reading import check_job_id
from tasks.records import FROM_OUTSIDE, Claim, Handoff, Progress, pack_timing, unpack_timing
from tasks.runtime import Runtime, runtime
from tasks.spec import SegmentSpec
from tasks.storing import Stored, Storing
from tasks.travel import outside_timing

if TYPE_CHECKING:
    from ltx2 import LTX2ContinuationState

log = logging.getLogger(__name__)
REPORT_EVERY_S = 0.25


@app.task(bind=True, name=SEGMENT_TASK)
def generate_segment(
    task: Task[..., Any], job_id: str, index: int, ticket: int, state: dict[str, Any] | None
) -> dict[str, Any]:
    """Render segment `index` of a job from the state before it, and publish the next one with the new state."""
    room = runtime()
    claim = room.jobs.claim_segment(check_job_id(job_id), int(index), int(ticket), room.worker, SEGMENTS)
    if isinstance(claim, int):
        return {"chained": room.publisher.segment(job_id, claim)}
    if isinstance(claim, str):
        return {"skipped": claim}
    reach("segment claimed", job_id, claim.index)
    with Lease(room.jobs, claim, room.settings.lease_s) as lease:
        try:
            return _render(task, room, lease, state)
        except SegmentCancelledError:
            return {"skipped": "the job was stopped, or the lease was lost"}
        except InputLostError as error:
            return repair(room, lease.claim, error)
        except SystemExit:
            room.jobs.give_up(lease.claim)
            raise
        except Exception as error:
            return give_up(room, lease.claim, error)


def _render(task: Task[..., Any], room: Runtime, lease: Lease, message: dict[str, Any] | None) -> dict[str, Any]:
    claim = lease.claim
    head, segment, next_prompt = room.jobs.segment_plan(claim.job_id, claim.index)
    incoming, source = _hydrate(room, claim, segment, message)
    timing = timing_of(head.shape, claim, segment)
    image = first_frame(room, head, claim)
    engine = room.engine(str(head.model), head.loras)
    reach("segment hydrated", claim.job_id, claim.index)

    seed = head.seed_of(claim.index, segment)
    request = SegmentRequest(segment.prompt, seed, head.width, head.height, timing, head.sampling, image)
    started = time.time() + claim.clock_skew_s
    storing = Storing(room, claim)
    output = _run(task, engine, lease, storing, request, incoming, next_prompt)
    ended = time.time() + claim.clock_skew_s
    reach("segment rendered", claim.job_id, claim.index)

    stored = storing.finish(output)
    handoff = _handoff_of(room, claim, stored, seed=seed, timing=timing, started=started, ended=ended)
    reach("segment stored", claim.job_id, claim.index)
    clip_claim = _repaired(room, claim, handoff) if claim.is_repair else room.jobs.commit_segment(claim, handoff)
    if not clip_claim:
        return {"skipped": "another worker holds this segment now"}
    reach("segment committed", claim.job_id, claim.index)
    if isinstance(clip_claim, Claim):
        lease.move_to(clip_claim)
    room.states.keep(handoff.digest, output.state)
    own = None if leaving.is_said() else own_queue(str(task.request.hostname))
    room.publisher.segment(claim.job_id, claim.index + 1, stored.message, own=own)
    if claim.is_repair:
        room.publisher.due(claim.job_id)
    if isinstance(clip_claim, Claim):
        make_beside(room, clip_claim, output, timing)
    return {"segment": claim.index, "state": source, "engine_s": round(ended - started, 3), "blobs": handoff.blobs}


def _repaired(room: Runtime, claim: Claim, handoff: Handoff) -> Claim | bool:
    """Commit a repair: when the same bytes came out, the record stands as it is."""
    before = room.jobs.handoff(claim.job_id, claim.index)
    same = before is not None and (before.state, before.latents) == (handoff.state, handoff.latents)
    if not same:
        log.warning("job %s: segment %d came out as other bytes; what followed falls", claim.job_id, claim.index)
    clip = room.jobs.clips(claim.job_id).get(claim.index)
    clip_lost = clip is not None and not states.is_whole(clip.blob_id, room.blobs)
    return room.jobs.commit_repair(claim, None if same else handoff, clip_lost=clip_lost)


def _hydrate(
    room: Runtime, claim: Claim, segment: SegmentSpec, message: dict[str, Any] | None
) -> tuple[LTX2ContinuationState | None, str]:
    """The state to continue, and where it was.

    This process' own where it is the record's; else the message's copy where that is, else the record's.
    """
    if (segment.transition == "cut" and claim.index > 0) or claim.previous is None:
        return None, "none"
    own = room.states.get(claim.previous.digest)
    if own is not None:
        return own, "local"
    with reading_from(claim.index - 1):
        return states.hydrate(states.trusted(message, claim.previous), room.blobs), "fetched"


def timing_of(shape: SegmentShape, claim: Claim, segment: SegmentSpec) -> SegmentTiming:
    """Where segment `claim.index` sits, from the handoff before it."""
    previous = claim.previous
    if previous is None:
        return first_timing(shape)
    if previous.index == FROM_OUTSIDE:
        return outside_timing(shape, previous.state["payload"])
    return next_timing(unpack_timing(shape, previous.timing), cut=segment.transition == "cut")


def _run(
    task: Task[..., Any],
    engine: Any,
    lease: Lease,
    storing: Storing,
    request: SegmentRequest,
    incoming: LTX2ContinuationState | None,
    next_prompt: str | None,
) -> SegmentOutput:
    def on_state(*known: Any) -> None:
        with lease.out_of_engine():
            storing.begin(*known)

    with lease.in_engine():
        output: SegmentOutput = engine.run(
            request, incoming, on_step=_reporter(task, lease), next_prompt=next_prompt, on_state=on_state
        )
    return output


def _reporter(task: Task[..., Any], lease: Lease) -> Callable[[int, int], bool]:
    started = time.monotonic()
    reported = started

    def on_step(step: int, steps: int) -> bool:
        nonlocal reported
        now = time.monotonic()
        progress = Progress(lease.claim.index, step, steps, (now - started) / step)
        if now - reported >= REPORT_EVERY_S or step in (1, steps):
            reported = now
            _tell(task, {"segment": progress.index + 1, "step": step, "steps": steps})
        return lease.renew(progress=progress)

    return on_step


def _tell(task: Task[..., Any], meta: dict[str, Any]) -> None:
    """Show progress to whoever watches; that nobody can be told is no reason to lose a render."""
    try:
        task.update_state(state="PROGRESS", meta=meta)
        task.send_event("task-progress", retry=False, **meta)
    except Exception as error:
        log.warning("progress could not be told: %s", error)


def _handoff_of(
    room: Runtime, claim: Claim, stored: Stored, *, seed: int, timing: SegmentTiming, started: float, ended: float
) -> Handoff:
    return Handoff(
        index=claim.index,
        state=stored.record,
        digest=states.digest(stored.message),
        blobs=stored.blobs,
        latents=stored.latents,
        timing=pack_timing(timing),
        seed=seed,
        fence=claim.fence,
        epoch=claim.epoch,
        worker=room.worker,
        engine_started=started,
        engine_ended=ended,
    )
