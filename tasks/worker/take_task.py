"""The Celery task of a take in one segment: one more rendering of it, with its clip."""

from __future__ import annotations

import logging
from typing import Any

from celery import Task

from tasks.errors import WorkFailedError
from tasks.jobs.failpoints import reach
from tasks.jobs.units import UnitKind, WorkUnit
from tasks.messaging.topology import TAKE_TASK
from tasks.messaging.tracing import tracing
from tasks.worker.app import app
from tasks.worker.claims.lease import Lease
from tasks.worker.claims.run_claimed import run_claimed
from tasks.worker.clip_task import encoded, stored_clip
from tasks.worker.context import WorkerContext, process
from tasks.worker.segment_task import Committable, render

log = logging.getLogger(__name__)


@app.task(bind=True, name=TAKE_TASK, throws=(WorkFailedError,))
def generate_take(task: Task[..., Any], job_id: str, index: int, take: int, ticket: int) -> dict[str, Any]:
    """Render take `take` of segment `index`: from the state before it, and to the end that the next segment continues.

    Of a take of several segments, each is a task of its own, and only the last one is led into such an end.
    """
    context = process.context
    unit = WorkUnit(UnitKind.TAKE, int(index), int(take))
    return run_claimed(
        task, context, job_id, unit, int(ticket), lambda lease: render(task, context, lease, _commit_take)
    )


def _commit_take(_: Task[..., Any], context: WorkerContext, lease: Lease, rendered: Committable) -> bool:
    """Make the clip of a take, commit both, and publish what waited for it; False: the claim was lost."""
    claim, deployment = lease.claim, context.deployment
    made, output, timing = rendered.handoff, rendered.output, rendered.timing
    with lease.in_engine():
        data = encoded(output.frames, output.sound, output.audio_rate, timing, claim.head.crop)
    clip = stored_clip(context, claim, data, timing, take=claim.unit.take)
    reach("take stored", claim.job_id, claim.index)
    former = claim.own
    changed = former is not None and (former.state, former.latents) != (made.state, made.latents)
    if changed:
        log.warning("the take has other bytes than before: what was made from it is made again")
    if not deployment.jobs.commit_take(claim, made, clip, changed=changed):
        return False
    reach("take committed", claim.job_id, claim.index)
    tracing.job_ended(claim.job_id, deployment.jobs)  # if the film was committed before its last take
    context.states.put(made.digest, output.state)  # for its next segment
    log.info("take committed", extra={"seconds": made.engine_ended - made.engine_started})
    for warning in made.warnings:
        log.warning("rendered with a warning", extra={"reason": warning})
    deployment.publisher.publish_due(claim.job_id)
    return True
