"""Runs one claimed unit of work: claim, lease, work, and what becomes of the claim when the work fails."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from billiard.pool import EX_RECYCLE
from celery import Task, states
from celery.exceptions import Ignore
from kombu.exceptions import OperationalError

from ltx2.errors import SegmentCancelledError
from tasks.errors import RecordError, VersionError, WorkFailedError
from tasks.jobs.connection import OUTAGES
from tasks.jobs.keys import check_job_id
from tasks.jobs.results import Claim, ClaimResult, FailedHere, NotChained, OtherClass, Refused
from tasks.jobs.units import WorkUnit
from tasks.messaging.tracing import tracing
from tasks.worker import metrics
from tasks.worker.claims.failures import InputLostError, handle_failure, handle_lost_input
from tasks.worker.claims.hand_over import hand_over
from tasks.worker.claims.lease import Lease
from tasks.worker.claims.peers import has_other_worker, has_worker_of_class
from tasks.worker.context import WorkerContext, process

log = logging.getLogger(__name__)
Result = dict[str, Any]
# Time for another worker to take a message that this one has left.
LEAVE_TO_OTHERS_S = 2.0


class SkippedError(Exception):
    """The work is not done here, and that is no failure: the job was stopped, or another worker has the unit."""


class WaitingError(SkippedError):
    """The claim was given back until another unit is done."""


def run_claimed(
    task: Task[..., Any],
    context: WorkerContext,
    job_id: str,
    unit: WorkUnit,
    ticket: int,
    work: Callable[[Lease], Result],
) -> Result:
    """Claim what a message is about and do `work` under its lease; returns the task's result.

    A claim ends in one of four ways: its work commits; it is released for another attempt; it waits until lost input is
    made again; or it fails the job, or the take.

    Raises:
        WorkFailedError: the work failed, and the claim has been released; or a server is out, and the lease expires.
        Ignore: there is nothing to do; Flower shows the task as rejected, with the reason in its result.
    """
    if context.unusable or context.engines.lost_rank:
        log.warning("this process ends, and is replaced: it can no longer render")
        raise SystemExit(EX_RECYCLE)  # the worker reports it, so that the message is published again
    try:
        return _run_claimed(task, context, job_id, unit, ticket, work)
    except OUTAGES as error:  # one that lasted longer than anything waited; the connection has logged it
        raise WorkFailedError(f"{error}; a worker tries again") from None
    except RecordError as error:  # found when the claim was renewed, committed or released
        raise WorkFailedError(f"{error}; the job fails") from None


def _run_claimed(
    task: Task[..., Any],
    context: WorkerContext,
    job_id: str,
    unit: WorkUnit,
    ticket: int,
    work: Callable[[Lease], Result],
) -> Result:
    jobs = context.deployment.jobs
    try:
        claim = _claim(context, check_job_id(job_id), unit, ticket)
    except VersionError as error:
        _skip(task, str(error))
    except RecordError as error:
        tracing.job_ended(job_id, jobs)
        raise WorkFailedError(f"{error}; it has failed") from None
    if isinstance(claim, Refused):
        _skip(task, claim.reason)
    if isinstance(claim, FailedHere | OtherClass):
        context.deployment.publisher.publish(job_id, claim.unit, seen=claim.ticket)
        time.sleep(LEAVE_TO_OTHERS_S)
        failed = isinstance(claim, FailedHere)
        _skip(task, "it failed on this worker; another one may try" if failed else "it waits for a worker of its class")
    if isinstance(claim, NotChained):
        return {"chained": context.deployment.publisher.publish(job_id, WorkUnit.segment(claim.next_index))}
    lease = Lease(jobs, claim, context.settings.lease_s, partial(hand_over, context))
    traced = context.tracing(claim, sent_with=task.request.headers)
    with context.logging(claim), traced, process.activity.working(claim), lease:
        context.claim = claim
        try:
            return _work(task, context, claim, lease, work)
        finally:
            context.claim = None


def _claim(context: WorkerContext, job_id: str, unit: WorkUnit, ticket: int) -> ClaimResult:
    """Claim, but leave a unit to another worker that did not fail it, or for a while to one of its render class."""
    claim_as = partial(
        context.deployment.jobs.claim,
        *(job_id, unit, ticket, context.worker),
        node=context.node,
        render_class=context.engines.render_class,
    )
    wait_s, prefer_others = context.settings.class_wait_s, True
    claim = claim_as(class_wait_s=wait_s)
    if isinstance(claim, FailedHere) and not has_other_worker(context, unit, claim.nodes):
        prefer_others = False
        claim = claim_as(class_wait_s=wait_s, prefer_others=False)
    if isinstance(claim, OtherClass) and not has_worker_of_class(context, unit, claim.render_class):
        claim = claim_as(prefer_others=prefer_others)
    return claim


def _work(
    task: Task[..., Any], context: WorkerContext, claim: Claim, lease: Lease, work: Callable[[Lease], Result]
) -> Result:
    log.info("started", extra={"fence": claim.fence})
    try:
        return work(lease)
    except SkippedError as error:
        # a lost claim did not vanish: its holder lives
        if not isinstance(error, WaitingError) and not lease.renew():
            metrics.leases_lost.inc()
        _skip(task, str(error))
    except SegmentCancelledError:
        metrics.leases_lost.inc()
        _skip(task, "the job was stopped, or the lease was lost")
    except InputLostError as error:
        handle_lost_input(context, lease.claim, error)
        _skip(task, f"waiting for a repair: {error}")
    except SystemExit:
        context.deployment.jobs.release(lease.claim)
        raise
    except Exception as error:
        raise WorkFailedError(handle_failure(context, lease.claim, error)) from None


def _skip(task: Task[..., Any], reason: str) -> NoReturn:
    """Acknowledge the message; the task's state is IGNORED with the reason, and Flower shows REJECTED."""
    log.info("skipped", extra={"reason": reason})
    try:
        task.update_state(state=states.IGNORED, meta={"skipped": reason})
        task.send_event("task-rejected", requeue=False, retry=False)
    except (*OUTAGES, OperationalError):
        pass  # the connection has logged it
    except Exception as error:
        if process.context.released.is_new(str(error)):
            log.warning("the task's state could not be sent", extra={"reason": str(error)})
    raise Ignore(reason)
