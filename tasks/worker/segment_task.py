"""The life of a segment: claim, hydrate, run, store, commit, chain, clip."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery import Task

from ltx2.errors import SegmentCancelledError
from ltx2.request import SegmentOutput, SegmentRequest
from ltx2.timeline import SegmentShape, SegmentTiming, first_timing, next_timing
from tasks.failpoints import reach
from tasks.jobs import state_wire as states
from tasks.jobs.keys import check_job_id
from tasks.jobs.queues import SEGMENTS
from tasks.jobs.records import FROM_OUTSIDE, Claim, Handoff, Progress, pack_timing, unpack_timing
from tasks.jobs.state_wire import outside_timing
from tasks.messaging.topology import SEGMENT_TASK, sticky_queue
from tasks.spec.schema import SegmentSpec
from tasks.worker.app import app
from tasks.worker.clip_task import make_beside
from tasks.worker.context import WorkerContext, process
from tasks.worker.failures import InputLostError, give_up, reading_from, repair
from tasks.worker.first_frame import first_frame
from tasks.worker.lease import Lease
from tasks.worker.state_upload import Stored, Storing

if TYPE_CHECKING:
    from ltx2 import LTX2ContinuationState

log = logging.getLogger(__name__)
REPORT_EVERY_S = 0.25


@app.task(bind=True, name=SEGMENT_TASK)
def generate_segment(
    task: Task[..., Any], job_id: str, index: int, ticket: int, state: dict[str, Any] | None
) -> dict[str, Any]:
    """Render segment `index` of a job from the state before it, and publish the next one with the new state."""
    context = process.context
    claim = context.deployment.jobs.claim_segment(
        check_job_id(job_id), int(index), int(ticket), context.worker, SEGMENTS
    )
    if isinstance(claim, int):
        return {"chained": context.deployment.publisher.segment(job_id, claim)}
    if isinstance(claim, str):
        return {"skipped": claim}
    reach("segment claimed", job_id, claim.index)
    with Lease(context.deployment.jobs, claim, context.settings.lease_s) as lease:
        try:
            return _render(task, context, lease, state)
        except SegmentCancelledError:
            return {"skipped": "the job was stopped, or the lease was lost"}
        except InputLostError as error:
            return repair(context, lease.claim, error)
        except SystemExit:
            context.deployment.jobs.give_up(lease.claim)
            raise
        except Exception as error:
            return give_up(context, lease.claim, error)


def _render(
    task: Task[..., Any], context: WorkerContext, lease: Lease, message: dict[str, Any] | None
) -> dict[str, Any]:
    claim = lease.claim
    head, segment, next_prompt = context.deployment.jobs.segment_plan(claim.job_id, claim.index)
    incoming, source = _hydrate(context, claim, segment, message)
    timing = timing_of(head.shape, claim, segment)
    image = first_frame(context, head, claim)
    engine = context.engines.engine(str(head.model), head.loras)
    reach("segment hydrated", claim.job_id, claim.index)

    seed = head.seed_of(claim.index, segment)
    request = SegmentRequest(segment.prompt, seed, head.width, head.height, timing, head.sampling, image)
    started = time.time() + claim.clock_skew_s
    storing = Storing(context, claim)
    output = _run(task, engine, lease, storing, request, incoming, next_prompt)
    ended = time.time() + claim.clock_skew_s
    reach("segment rendered", claim.job_id, claim.index)

    stored = storing.finish(output)
    handoff = _handoff_of(context, claim, stored, seed=seed, timing=timing, started=started, ended=ended)
    reach("segment stored", claim.job_id, claim.index)
    clip_claim = (
        _repaired(context, claim, handoff)
        if claim.is_repair
        else context.deployment.jobs.commit_segment(claim, handoff)
    )
    if not clip_claim:
        return {"skipped": "another worker holds this segment now"}
    reach("segment committed", claim.job_id, claim.index)
    if isinstance(clip_claim, Claim):
        lease.move_to(clip_claim)
    context.states.put(handoff.digest, output.state)
    own = None if process.shutdown.is_set() else sticky_queue(str(task.request.hostname))
    context.deployment.publisher.segment(claim.job_id, claim.index + 1, stored.message, own=own)
    if claim.is_repair:
        context.deployment.publisher.due(claim.job_id)
    if isinstance(clip_claim, Claim):
        make_beside(context, clip_claim, output, timing)
    return {"segment": claim.index, "state": source, "engine_s": round(ended - started, 3), "blobs": handoff.blobs}


def _repaired(context: WorkerContext, claim: Claim, handoff: Handoff) -> Claim | bool:
    """Commit a repair: when the same bytes came out, the record stands as it is."""
    before = context.deployment.jobs.handoff(claim.job_id, claim.index)
    same = before is not None and (before.state, before.latents) == (handoff.state, handoff.latents)
    if not same:
        log.warning("job %s: segment %d came out as other bytes; what followed falls", claim.job_id, claim.index)
    clip = context.deployment.jobs.clips(claim.job_id).get(claim.index)
    clip_lost = clip is not None and not states.is_whole(clip.blob_id, context.deployment.blobs)
    return context.deployment.jobs.commit_repair(claim, None if same else handoff, clip_lost=clip_lost)


def _hydrate(
    context: WorkerContext, claim: Claim, segment: SegmentSpec, message: dict[str, Any] | None
) -> tuple[LTX2ContinuationState | None, str]:
    """The state to continue, and where it was.

    This process' own where it is the record's; else the message's copy where that is, else the record's.
    """
    if (segment.transition == "cut" and claim.index > 0) or claim.previous is None:
        return None, "none"
    own = context.states.get(claim.previous.digest)
    if own is not None:
        return own, "local"
    with reading_from(claim.index - 1):
        return states.hydrate(states.trusted(message, claim.previous), context.deployment.blobs), "fetched"


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
    context: WorkerContext,
    claim: Claim,
    stored: Stored,
    *,
    seed: int,
    timing: SegmentTiming,
    started: float,
    ended: float,
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
        worker=context.worker,
        engine_started=started,
        engine_ended=ended,
    )
