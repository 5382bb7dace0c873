"""The other workers of the deployment, as their heartbeats say."""

from __future__ import annotations

from tasks.jobs.queues import queue_of
from tasks.jobs.units import UnitKind, WorkUnit
from tasks.worker.context import WorkerContext


def has_other_worker(context: WorkerContext, kind: UnitKind, failed: frozenset[str]) -> bool:
    """Whether a living worker takes units of this kind, and is none of those that failed this one."""
    queue = queue_of(WorkUnit(kind, 0))
    workers = context.deployment.jobs.workers().living
    return any(worker.token not in failed and queue in worker.queues and not worker.stopping for worker in workers)
