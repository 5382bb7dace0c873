"""The other workers of the deployment, as their heartbeats say."""

from __future__ import annotations

from tasks.jobs.queues import queue_of
from tasks.jobs.units import WorkUnit
from tasks.jobs.workers import WorkerInfo
from tasks.worker.context import WorkerContext


def has_other_worker(context: WorkerContext, unit: WorkUnit, failed: frozenset[str]) -> bool:
    """Whether a living worker takes units like this one, and is none of those that failed this one."""
    queue = queue_of(unit)
    return any(other.token not in failed and other.takes(queue) for other in context.deployment.jobs.workers().living)


def has_worker_of_class(context: WorkerContext, unit: WorkUnit, render_class: str) -> bool:
    """Whether a living worker takes units like this one, and has this render class."""
    queue = queue_of(unit)
    return any(
        one.render_class == render_class and one.takes(queue) for one in context.deployment.jobs.workers().living
    )


def idle_peer_with_blobs(context: WorkerContext, unit: WorkUnit) -> WorkerInfo | None:
    """Another worker that waits for units like this one, and reaches the blob server, which this one does not.

    Its heartbeat must be from the later half of this worker's outage: an older one does not tell whether the server is
    out for both.
    """
    queue = queue_of(unit)
    living = context.deployment.jobs.workers().living
    own = next((worker for worker in living if worker.token == context.node), None)
    if own is None or not own.blob_outage_s:
        return None
    proof = own.seen_at - own.blob_outage_s / 2
    others = [one for one in living if one.token != own.token and one.takes(queue) and one.is_idle]
    return next((one for one in others if not one.blob_outage_s and one.seen_at >= proof), None)
