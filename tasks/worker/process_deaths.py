"""Reports the death of a child process to the job whose message it had."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Sequence
from typing import Any

from billiard.exceptions import WorkerLostError
from celery import Task, signals

from tasks.jobs.results import ReleaseOutcome
from tasks.jobs.units import START_INDEX, UnitKind
from tasks.messaging.topology import CLIP_TASK, FILM_TASK, SEGMENT_TASK
from tasks.worker.context import process

log = logging.getLogger(__name__)
KINDS = {SEGMENT_TASK: UnitKind.SEGMENT, CLIP_TASK: UnitKind.CLIP, FILM_TASK: UnitKind.FILM}


@signals.task_failure.connect
def report_death(sender: Task[..., Any], exception: BaseException, args: Sequence[Any], **_: Any) -> None:
    """Report it from a thread: the main process must not wait for a server.

    Celery calls this in the main process when a child has died. A child that a shutdown ends is not reported: its
    claim is released, or its lease expires.
    """
    if isinstance(exception, WorkerLostError) and sender.name in KINDS and not process.shutdown.is_set():
        job_id, *index, ticket = args[: 2 if sender.name == FILM_TASK else 3]
        unit = (KINDS[sender.name], index[0] if index else START_INDEX, ticket)
        how = re.search(r"signal \d+ \(\w+\)|exitcode \d+", str(exception))
        reason = f"its process died ({how[0]})" if how else "its process died"
        threading.Thread(target=_report, args=(job_id, *unit, reason), name="report a death", daemon=True).start()


def _report(job_id: str, kind: UnitKind, index: int, ticket: int, reason: str) -> None:
    deployment = process.context.deployment
    try:
        unit, released = deployment.jobs.report_death(job_id, kind, index, ticket, node=process.token, reason=reason)
        if released.outcome == ReleaseOutcome.RETRY:
            deployment.publisher.publish(job_id, unit, seen=released.ticket)
    except Exception as error:
        log.warning("a dead process could not be reported; its lease will expire", extra={"reason": str(error)})
        return
    fields = {"job": job_id, "unit": str(unit.kind), "segment": index, "reason": str(released.outcome)}
    log.warning("a process died with its work", extra=fields)
