"""The Celery task of a segment: claim, hydrate, run, store, commit, chain, clip."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from celery import Task

from ltx2.quality.levels import shows_one_colour
from ltx2.request import SegmentOutput, SegmentRequest
from ltx2.timeline import SegmentTiming
from tasks.errors import FlatSegmentError, MessageError, WorkFailedError
from tasks.jobs import state_wire
from tasks.jobs.failpoints import reach
from tasks.jobs.records import Handoff
from tasks.jobs.results import Claim, KeptRendering
from tasks.jobs.units import WorkUnit
from tasks.messaging.topology import SEGMENT_TASK
from tasks.worker import metrics
from tasks.worker.app import app
from tasks.worker.claims.failures import reading_from, when_there_is_room
from tasks.worker.claims.lease import Lease
from tasks.worker.claims.run_claimed import SkippedError, run_claimed
from tasks.worker.clip_task import make_clip_in_background
from tasks.worker.context import WorkerContext, process
from tasks.worker.inputs.dissolve import frames_to_dissolve, with_dissolve
from tasks.worker.inputs.given_sound import given_sound
from tasks.worker.inputs.images import images_of
from tasks.worker.inputs.pinned_end import pinned_end
from tasks.worker.inputs.source_video import as_shown, with_source_sound
from tasks.worker.inputs.video_after import led_into
from tasks.worker.segments.auto_length import with_length
from tasks.worker.segments.handoffs import handoff_of, kept
from tasks.worker.segments.renderings import Rendering, best, has_choice, seed_of
from tasks.worker.segments.state_upload import StateUpload
from tasks.worker.segments.step_reporter import StepReporter

if TYPE_CHECKING:
    from ltx2 import LTX2ContinuationState
    from tasks.worker.engines import SegmentEngine

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Committable:
    """What was rendered. output, timing: as its clip shows them. others: renderings that were not chosen."""

    handoff: Handoff
    output: SegmentOutput
    timing: SegmentTiming
    others: Sequence[KeptRendering] = ()


Commit = Callable[["Task[..., Any]", WorkerContext, Lease, Committable], bool]
"""Commits what was rendered; False: the claim was lost."""


@app.task(bind=True, name=SEGMENT_TASK, throws=(WorkFailedError,))
def generate_segment(
    task: Task[..., Any], job_id: str, index: int, ticket: int, state: dict[str, Any] | None
) -> dict[str, Any]:
    """Render segment `index` of a job from the state before it, and publish the next one with the new state.

    The record's copy of the state is used, never the message's.
    """
    context = process.context
    return run_claimed(
        task, context, job_id, WorkUnit.segment(int(index)), int(ticket), lambda lease: _render(task, context, lease)
    )


def render(task: Task[..., Any], context: WorkerContext, lease: Lease, commit: Commit) -> dict[str, Any]:
    """Render what a claim is about, a segment or a take, and `commit` it; returns the task's result."""
    claim = lease.claim
    reach("segment claimed", claim.job_id, claim.index)
    when_there_is_room(context.deployment.blobs.check_writable)  # what cannot be stored is not rendered
    upload = StateUpload(context, claim)
    with lease.in_engine():
        incoming, source = _hydrate(context, claim)
        engine = _engine(context, claim)
        claim = with_length(context, lease, engine)
        incoming = with_source_sound(context, claim, engine, incoming)
        request = _request(context, claim, engine)
        dissolves_from = frames_to_dissolve(context, claim, engine)
        reach("segment hydrated", claim.job_id, claim.index)
        others: list[KeptRendering] = []
        if incoming is not None and has_choice(claim, incoming):
            run = partial(_run, task, engine, lease, None, state=incoming)
            made = best(
                claim.head, request, incoming, run, lambda one: others.append(kept(context, claim, one, incoming))
            )
        else:
            made = Rendering.made(request, partial(_run, task, engine, lease, upload, state=incoming))
        output = made.output
        if context.settings.flat_segments == "error":
            _refuse_flat(claim.index, output, incoming)
    reach("segment rendered", claim.job_id, claim.index)

    stored = upload.finish(output)
    reach("segment stored", claim.job_id, claim.index)
    handoff = handoff_of(context, claim, made, stored)
    shown = with_dissolve(output, dissolves_from)
    frames = led_into(shown.frames, request.end)
    frames, timing = as_shown(claim, frames, request.timing, incoming.video_frames if incoming else None)
    if not commit(task, context, lease, Committable(handoff, replace(shown, frames=frames), timing, others)):
        raise SkippedError("another worker holds this segment now")
    metrics.segment_rendered(
        handoff, output, request.timing, repair=claim.is_repair, before=claim.previous, incoming=incoming
    )
    return {
        "segment": claim.index,
        "state": source,
        "engine_s": round(made.ended - made.started, 3),
        "blobs": state_wire.handoff_blobs(handoff),
    }


def _render(task: Task[..., Any], context: WorkerContext, lease: Lease) -> dict[str, Any]:
    return render(task, context, lease, _commit_repair if lease.claim.is_repair else _commit_segment)


def _hydrate(context: WorkerContext, claim: Claim) -> tuple[LTX2ContinuationState | None, str]:
    """The state to continue, and its source: `none`, this process (`local`), or the record (`fetched`)."""
    if claim.previous is None or (claim.index > 0 and claim.segment is not None and claim.segment.is_new_scene):
        return None, "none"
    cached = context.states.get(claim.previous.digest)
    if cached is not None:
        return cached, "local"
    with reading_from(claim.index - 1, claim.from_take):
        return state_wire.decode(claim.previous.state, context.deployment.blobs), "fetched"


def _request(context: WorkerContext, claim: Claim, engine: SegmentEngine) -> SegmentRequest:
    head, segment = claim.head, claim.segment
    if segment is None:
        raise MessageError(f"job {claim.job_id} has no segment {claim.index}")
    timing, end = claim.timing, pinned_end(context, claim, engine)
    image, images = images_of(context, claim)
    last = timing.shape.frames - (end.frames if end else 0)
    prompt, seed = segment.prompt, seed_of(claim, head.seed_of(claim.index, segment))
    if claim.request is not None:
        prompt, seed = claim.request.prompt_and_seed(prompt, seed, claim.unit.take)
    return SegmentRequest(
        prompt,
        seed,
        head.width,
        head.height,
        timing,
        head.sampling_of(segment),
        image,
        end=end,
        images=tuple(placed for placed in images if placed.frame < last),  # the end shows those behind
        sound=given_sound(context, head, engine, timing),
    )


def _engine(context: WorkerContext, claim: Claim) -> SegmentEngine:
    head = claim.head
    loras = head.loras_of(claim.segment) if claim.segment else head.loras
    return context.engines.engine(
        str(head.model), loras, head.more_files, text_encoder=head.text_encoder, distilled=head.distilled
    )


def _run(
    task: Task[..., Any],
    engine: Any,
    lease: Lease,
    upload: StateUpload | None,
    request: SegmentRequest,
    *,
    state: LTX2ContinuationState | None,
) -> SegmentOutput:
    """Render. upload: stores the state as soon as it is there; None: it may not be the one that is chosen."""

    def on_state(*early: Any) -> None:
        if upload is not None:
            with lease.out_of_engine():
                upload.start(*early)

    with StepReporter(task, lease) as reporter:
        output: SegmentOutput = engine.run(
            request,
            state,
            on_step=reporter.on_step,
            next_prompt=lease.claim.next_prompt,
            on_state=on_state,
        )
    return output


def _refuse_flat(index: int, output: SegmentOutput, incoming: LTX2ContinuationState | None) -> None:
    if incoming is None or not incoming.video_frames or not shows_one_colour(output.frames):
        return
    if not shows_one_colour(incoming.video_frames[-1:]):
        raise FlatSegmentError(
            f"segment {index} has one colour throughout, the picture before it has not; LONGTAKE_FLAT_SEGMENTS is error"
        )


def _commit_segment(
    task: Task[..., Any],
    context: WorkerContext,
    lease: Lease,
    made: Committable,
) -> bool:
    """Commit, chain the next segment, and make the clip in the background; False: the claim was lost."""
    claim, handoff = lease.claim, made.handoff
    sticky = None if process.shutdown.is_set() else process.sticky_queue(str(task.request.hostname))
    commit = context.deployment.jobs.commit_segment(claim, handoff, others=made.others, sticky=sticky is not None)
    if commit is None:
        return False
    _committed(context, claim, handoff, made.output)
    lease.move_to(commit.clip)
    if commit.following is not None:
        state = handoff.state if commit.following.unit.index == claim.index + 1 else None  # else another part begins
        context.deployment.publisher.send(claim.job_id, commit.following, state, sticky=sticky, wait=False)
        log.info("chained")
    make_clip_in_background(context, commit.clip, made.output, made.timing)
    return True


def _commit_repair(
    task: Task[..., Any],
    context: WorkerContext,
    lease: Lease,
    made: Committable,
) -> bool:
    """Commit a repair, and publish what waited for it; False: the claim was lost."""
    claim, deployment, handoff = lease.claim, context.deployment, made.handoff
    before = claim.own
    changed = before is None or (before.state, before.latents) != (handoff.state, handoff.latents)
    if changed:
        log.warning("the repair gave other bytes: later segments are rendered again")
    clip = deployment.jobs.clips(claim.job_id).get(claim.index)
    clip_lost = clip is not None and not state_wire.is_whole(clip.blob_id, deployment.blobs)
    commit = deployment.jobs.commit_repair(claim, handoff, changed=changed, clip_lost=clip_lost)
    if commit is None:
        return False
    _committed(context, claim, handoff, made.output)
    log.info("repaired")
    if commit.clip is not None:
        lease.move_to(commit.clip)
    deployment.publisher.publish(claim.job_id, WorkUnit.segment(claim.index + 1))
    deployment.publisher.publish_due(claim.job_id)
    if commit.clip is not None:
        make_clip_in_background(context, commit.clip, made.output, made.timing)
    return True


def _committed(context: WorkerContext, claim: Claim, handoff: Handoff, output: SegmentOutput) -> None:
    reach("segment committed", claim.job_id, claim.index)
    log.info("committed", extra={"seconds": handoff.engine_ended - handoff.engine_started})
    for warning in handoff.warnings:
        log.warning("rendered with a warning", extra={"reason": warning})
    context.states.put(handoff.digest, output.state)
