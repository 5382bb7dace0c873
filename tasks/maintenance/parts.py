"""Opens parts of films that workers would otherwise be idle for: segments that need nothing of those in work."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Sequence

from tasks.jobs.queues import SEGMENTS
from tasks.jobs.reading.workload import Workload
from tasks.jobs.results import NeedReason
from tasks.jobs.store import JobStore
from tasks.jobs.workers import ChildState, WorkerInfo
from tasks.messaging.publisher import Publisher

log = logging.getLogger(__name__)


def open_parts(jobs: JobStore, publisher: Publisher, candidates: Iterable[str]) -> int:
    """Publish segments of these jobs for workers that have nothing to do, one of each job in turn; returns how many.

    candidates: jobs with a segment that could be rendered beside those in work.
    """
    left = deque(candidates)
    if not left:
        return 0
    workers = jobs.workers().living
    if free_children(workers, Workload()) <= jobs.queue_lengths([SEGMENTS])[SEGMENTS]:
        return 0  # spares the look at all jobs while work waits for workers
    free = free_children(workers, jobs.workload())
    opened = 0
    while left and opened < free:
        job_id = left.popleft()
        needs = (need for need in jobs.survey(job_id) if need.why == NeedReason.POSSIBLE)
        if (need := next(needs, None)) is not None and publisher.publish(job_id, need.unit):
            log.info("rendered beside other segments", extra={"job": job_id, "unit": need.unit})
            opened += 1
            left.append(job_id)
    return opened


def free_children(workers: Sequence[WorkerInfo], load: Workload) -> int:
    """How many children of these workers have nothing to do, and get nothing of what is given out.

    A heartbeat is some seconds old: a child that it calls idle may have claimed work since.
    """
    takers = [worker for worker in workers if worker.takes(SEGMENTS) and not worker.blob_outage_s]
    states = [child.state for worker in takers for child in worker.children]
    idle = states.count(ChildState.IDLE)
    return max(0, min(idle, idle + states.count(ChildState.WORKING) - load.held) - load.queued)
