"""What becomes of a claim whose work failed: another attempt, a wait for a repair, or the end of its job."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import redis

from blobstore import (
    BlobCorruptError,
    BlobNotFoundError,
    BlobStoreError,
    BlobStoreFullError,
    BlobStoreUnavailableError,
    BlobStoreVersionError,
)
from ltx2.errors import (
    ContinuationError,
    HubUnreachableError,
    NotFiniteError,
    RankError,
    RequestError,
    TimelineError,
    UnsupportedModelError,
    UnsupportedStateError,
)
from tasks.errors import FlatSegmentError, HostFaultError, SpecError, VersionError, WorkFailedError
from tasks.jobs.connection import OUTAGES, Shortage, retry_while_full
from tasks.jobs.queues import queue_of
from tasks.jobs.results import Claim, Released, ReleaseOutcome
from tasks.jobs.units import START_INDEX, WorkUnit
from tasks.messaging.tracing import tracing
from tasks.worker import metrics
from tasks.worker.context import WorkerContext, process

log = logging.getLogger(__name__)
# Errors that no other attempt and no other host can change.
PERMANENT = (
    ContinuationError,
    FlatSegmentError,
    NotFiniteError,
    RequestError,
    SpecError,
    TimelineError,
    UnsupportedModelError,
    UnsupportedStateError,
)
NEWER = (BlobStoreVersionError, VersionError)
RELEASED = (*OUTAGES, *NEWER, HubUnreachableError, redis.OutOfMemoryError)
OUTAGE_PAUSE_S = 5.0
FULL_STORE_PATIENCE_S = 60.0
REASON_CHARACTERS = 500
OUTCOMES = {
    ReleaseOutcome.RETRY: "a worker tries again",
    ReleaseOutcome.FAILED: "the job has failed",
    ReleaseOutcome.REFUSED: "the claim was already lost",
}
T = TypeVar("T")
_blob_shortage = Shortage("the blob store", "room")


class InputLostError(Exception):
    """A blob that a unit of work reads is missing or damaged; `index` and `take` say which segment made it.

    kind: the name of the blob store's error.
    """

    def __init__(self, index: int, cause: Exception, take: int = 0) -> None:
        made_by = f"take {take} of segment {index}" if take else f"segment {index}"
        lost = "what the job starts from" if index == START_INDEX else f"output of {made_by}"
        super().__init__(f"{lost} was lost: {cause}")
        self.index = index
        self.take = take
        self.kind = type(cause).__name__


@contextmanager
def reading_from(index: int, take: int = 0) -> Iterator[None]:
    """Raise InputLostError for a lost blob inside this block, which reads the output of a take of segment `index`."""
    try:
        yield
    except (BlobNotFoundError, BlobCorruptError) as error:
        raise InputLostError(index, error, take) from error


def when_there_is_room(store: Callable[[], T]) -> T:
    """The result of `store`, which puts blobs and may be repeated; waits up to a minute for a full blob store.

    Raises:
        BlobStoreFullError: the store stayed full.
    """
    return retry_while_full(store, _is_full, patience_s=FULL_STORE_PATIENCE_S, shortage=_blob_shortage)


def _is_full(error: Exception) -> bool:
    return isinstance(error, BlobStoreFullError)


def handle_lost_input(context: WorkerContext, claim: Claim, error: InputLostError) -> None:
    """Give the claim back until the segment that made its input is rendered again.

    If the input of that repair is lost too, it does the same: repairs start at the newest whole state.

    Raises:
        WorkFailedError: no segment made it; the job, or the take, has failed.
    """
    if error.index == START_INDEX:
        raise WorkFailedError(handle_failure(context, claim, error, final=True))
    log.warning("waiting for a repair", extra={"reason": str(error)})
    repair = WorkUnit.of_take(error.index, error.take)
    if context.deployment.jobs.report_lost(claim, repair):
        metrics.repairs.labels(str(repair.kind), error.kind).inc()
        context.deployment.publisher.publish(claim.job_id, repair)


def handle_failure(context: WorkerContext, claim: Claim, error: Exception, *, final: bool = False) -> str:
    """Release a claim whose work failed; returns the reason, and what became of the unit.

    An outage of a server, or data of a newer longtake, is not a failed attempt: the work is published again after some
    seconds. Nor is a fault of this host: a new process tries, and if that one cannot load the default model either, the
    worker ends. A fault of the ranks that render together is one of the host, unless their last one was in the same
    unit. Any other error is one, and the work is published again while attempts are left; a permanent error, or
    `final`, fails the job at once.
    """
    jobs, kind = context.deployment.jobs, type(error).__name__
    is_host_fault = isinstance(error, HostFaultError) or (isinstance(error, RankError) and _is_new_fault(claim))
    if is_host_fault or isinstance(error, RELEASED):
        metrics.releases.labels(kind).inc()
    else:
        metrics.failures.labels(str(claim.unit.kind), kind).inc()
    if isinstance(error, RELEASED):
        if isinstance(error, NEWER) and context.released.is_new(f"{claim.job_id} {error}"):
            log.warning("released", extra={"reason": str(error)})  # who waited has logged the start of any other
        is_of_blobs = isinstance(error, BlobStoreUnavailableError)
        if not is_of_blobs:
            time.sleep(OUTAGE_PAUSE_S)
        with suppress(*OUTAGES):  # then the lease expires
            publish_again(context, claim, jobs.release(claim))
        if is_of_blobs:
            _wait_for_blobs(context)
        return f"{error}; released, a worker tries again"
    context.unusable |= is_host_fault or not context.engines.device_works()
    if is_host_fault:
        log.error("released: this process cannot render", extra={"reason": str(error)})
        publish_again(context, claim, jobs.release(claim))
        return f"{error}; released, a new process tries again"
    reason = f"{kind}: {error}"
    log.error("failed", exc_info=error, extra={"reason": reason})
    released = jobs.release(claim, reason[:REASON_CHARACTERS], final=final or isinstance(error, PERMANENT))
    publish_again(context, claim, released)
    if released.outcome == ReleaseOutcome.FAILED:
        tracing.job_ended(claim.job_id, jobs)
    return f"{reason}; {OUTCOMES[released.outcome]}"


def _is_new_fault(claim: Claim) -> bool:
    """Whether the last fault of this worker's ranks was in another unit: twice in one, the unit may be the cause."""
    text = f"{claim.job_id} {claim.unit}"
    is_new = process.rank_fault.text != text
    process.rank_fault.text = text
    return is_new


def _wait_for_blobs(context: WorkerContext) -> None:
    """Take no other work while the blob store is out: another worker may reach it, and this one would take it again."""
    while not process.shutdown.is_set():
        try:
            context.deployment.blobs.check_writable()
            return
        except BlobStoreUnavailableError:
            time.sleep(OUTAGE_PAUSE_S)
        except BlobStoreError:
            return  # the next unit meets it, too


def publish_again(context: WorkerContext, claim: Claim, released: Released) -> None:
    """Publish the work of a released claim, if it is due."""
    publisher = context.deployment.publisher
    if released.outcome == ReleaseOutcome.RETRY and publisher.publish(claim.job_id, claim.unit, seen=released.ticket):
        log.info("retried", extra={"reason": f"published to {queue_of(claim.unit)}"})
