"""Reports the death of a child process to the job whose message it had."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

from billiard.exceptions import WorkerLostError
from celery import Task, signals

from tasks.jobs.connection import connect
from tasks.jobs.results import ReleaseOutcome
from tasks.jobs.store import JobStore
from tasks.jobs.units import START_INDEX, UnitKind, WorkUnit
from tasks.messaging.topology import CLIP_TASK, FILM_TASK, SEGMENT_TASK, TAKE_TASK
from tasks.messaging.tracing import tracing
from tasks.worker.claims.failures import OUTCOMES
from tasks.worker.context import process

log = logging.getLogger(__name__)
TIMEOUT_S = 1.0
ARGUMENTS = {UnitKind.SEGMENT: 3, UnitKind.TAKE: 4, UnitKind.CLIP: 3, UnitKind.FILM: 2}
"""Of each kind of message, up to its ticket."""
KINDS = {SEGMENT_TASK: UnitKind.SEGMENT, TAKE_TASK: UnitKind.TAKE, CLIP_TASK: UnitKind.CLIP, FILM_TASK: UnitKind.FILM}


@signals.task_failure.connect
def report_death(sender: Task[..., Any], exception: BaseException, args: Sequence[Any], **_: Any) -> None:
    """Report it at once, and in a second: a thread would hold locks while the pool forks the next child.

    Celery calls this in the main process when a child has died. The reconciler publishes the work again. A child that a
    shutdown ends is not reported: its claim is released, or its lease expires.
    """
    if isinstance(exception, WorkerLostError) and sender.name in KINDS and not process.shutdown.is_set():
        job_id, *numbers, ticket = args[: ARGUMENTS[KINDS[sender.name]]]
        unit = WorkUnit(KINDS[sender.name], *(numbers or [START_INDEX]))
        how = re.search(r"signal \d+ \(\w+\)|exitcode \d+", str(exception))
        reason = f"its process died ({how[0]})" if how else "its process died"
        _report(job_id, unit, ticket, reason)


def _report(job_id: str, unit: WorkUnit, ticket: int, reason: str) -> None:
    settings = process.context.settings
    try:
        with connect(settings.redis_url, reply_timeout_s=TIMEOUT_S) as client:
            jobs = JobStore(client, settings)
            _, released = jobs.report_death(job_id, unit, ticket, node=process.token, reason=reason)
            if released.outcome == ReleaseOutcome.FAILED:
                tracing.job_ended(job_id, jobs)
    except Exception as error:
        log.warning("a dead process could not be reported; its lease will expire", extra={"reason": str(error)})
        return
    fields = {"job": job_id, "unit": str(unit.kind), "segment": unit.index, "reason": OUTCOMES[released.outcome]}
    log.warning("a process died with its work", extra=fields)
