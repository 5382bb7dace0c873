"""Runs one claimed unit of work: claim, lease, work, and what becomes of the claim when the work fails."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ltx2.errors import SegmentCancelledError
from tasks.errors import RecordError, VersionError
from tasks.jobs.keys import check_job_id
from tasks.jobs.records import NotChained, Refused, UnitKind, WorkUnit
from tasks.worker.context import WorkerContext
from tasks.worker.failures import InputLostError, handle_failure, handle_lost_input
from tasks.worker.lease import Lease

log = logging.getLogger(__name__)
Result = dict[str, Any]


def run_claimed(
    context: WorkerContext, job_id: str, kind: UnitKind, index: int, ticket: int, work: Callable[[Lease], Result]
) -> Result:
    """Claim what a message is about and do `work` under its lease; returns the task's result.

    kind: SEGMENT, CLIP or FILM. A claim ends in one of four ways: its work commits; it is released for another attempt;
    it waits until lost input is made again; or it fails the job.
    """
    jobs = context.deployment.jobs
    try:
        claim = jobs.claim(check_job_id(job_id), kind, index, ticket, context.worker)
    except VersionError as error:
        return {"skipped": str(error)}
    except RecordError as error:
        log.error("job %s failed: %s", job_id, error)
        return {"failed": str(error)}
    if isinstance(claim, Refused):
        return {"skipped": claim.reason}
    if isinstance(claim, NotChained):
        return {"chained": context.deployment.publisher.publish(job_id, WorkUnit.segment(claim.next_index))}
    with context.logging(claim), Lease(jobs, claim, context.settings.lease_s) as lease:
        log.info("started", extra={"fence": claim.fence})
        try:
            return work(lease)
        except SegmentCancelledError:
            return {"skipped": "the job was stopped, or the lease was lost"}
        except InputLostError as error:
            return handle_lost_input(context, lease.claim, error)
        except SystemExit:
            jobs.release(lease.claim)
            raise
        except Exception as error:
            return handle_failure(context, lease.claim, error)
