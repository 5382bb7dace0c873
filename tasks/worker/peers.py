"""The other workers of the deployment, as their heartbeats say."""

from __future__ import annotations

from tasks.jobs.queues import queue_of
from tasks.jobs.units import UnitKind, WorkUnit
from tasks.jobs.workers import WorkerInfo
from tasks.worker.context import WorkerContext


def has_other_worker(context: WorkerContext, kind: UnitKind, failed: frozenset[str]) -> bool:
    """Whether a living worker takes units of this kind, and is none of those that failed this one."""
    queue = queue_of(WorkUnit(kind, 0))
    return any(other.token not in failed and other.takes(queue) for other in context.deployment.jobs.workers().living)


def idle_peer_with_blobs(context: WorkerContext, kind: UnitKind) -> WorkerInfo | None:
    """Another worker that waits for units of this kind, and reaches the blob server; None if there is none."""
    queue = queue_of(WorkUnit(kind, 0))
    others = [other for other in context.deployment.jobs.workers().living if other.token != context.node]
    return next((one for one in others if one.takes(queue) and one.is_idle and not one.blob_outage_s), None)
