"""What becomes of a claim whose work failed: laid down for another try or until a repair, or the end of its job."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import redis

from blobstore import BlobCorruptError, BlobNotFoundError, BlobStoreFullError, BlobStoreUnavailableError
from blobstore.redis.errors import takes_no_writes
from ltx2.errors import ContinuationError, RequestError, TimelineError, UnsupportedStateError
from tasks.errors import ServerError, SpecError
from tasks.jobs.connection import retry_while_full
from tasks.jobs.records import FROM_OUTSIDE, Claim
from tasks.worker.context import WorkerContext

log = logging.getLogger(__name__)
# No other attempt and no other host can change these.
HOPELESS = (ContinuationError, RequestError, SpecError, TimelineError, UnsupportedStateError)
OUTAGES = (BlobStoreUnavailableError, ServerError, redis.ConnectionError, redis.TimeoutError, redis.OutOfMemoryError)
OUTAGE_PAUSE_S = 5.0
FULL_STORE_PATIENCE_S = 60.0
T = TypeVar("T")


class InputLostError(Exception):
    """A blob that a unit of work reads is missing or damaged; `index` is the segment that made it."""

    def __init__(self, index: int, cause: Exception) -> None:
        lost = "what the job began with" if index == FROM_OUTSIDE else f"what segment {index} left"
        super().__init__(f"{lost} was lost: {cause}")
        self.index = index


@contextmanager
def reading_from(index: int) -> Iterator[None]:
    """Tell a lost input from what goes wrong with a unit's own blobs."""
    try:
        yield
    except (BlobNotFoundError, BlobCorruptError) as error:
        raise InputLostError(index, error) from error


def when_there_is_room(store: Callable[[], T]) -> T:
    """The result of `store`, which puts blobs and may be repeated; a full blob store is waited for, up to a minute.

    Raises:
        BlobStoreFullError: there was no room in all that time.
    """
    return retry_while_full(store, _is_full, patience_s=FULL_STORE_PATIENCE_S, wanted="room")


def _is_full(error: Exception) -> bool:
    return isinstance(error, BlobStoreFullError)


def repair(context: WorkerContext, claim: Claim, error: InputLostError) -> dict[str, Any]:
    """Lay down a claim whose input was lost, and have the segment that made it rendered again.

    When that one's input is lost too, its repair does the same: the newest whole state is found step by step.
    """
    if error.index == FROM_OUTSIDE:
        return give_up(context, claim, error, final=True)
    log.warning("job %s: %s waits for a repair: %s", claim.job_id, claim.unit, error)
    if context.deployment.jobs.damage(claim, error.index):
        context.deployment.publisher.repair(claim.job_id, error.index)
    return {"repairing": error.index, "reason": str(error)}


def give_up(context: WorkerContext, claim: Claim, error: Exception, *, final: bool = False) -> dict[str, Any]:
    """Lay down a claim that failed.

    An outage of a server is nobody's failed attempt: the reconciler publishes the work again. Other errors are counted,
    and the work is published anew while attempts are left; a hopeless one ends the job at once.
    """
    if isinstance(error, OUTAGES) or takes_no_writes(error):
        log.warning("job %s: %s is laid down, a server is out: %s", claim.job_id, claim.unit, error)
        time.sleep(OUTAGE_PAUSE_S)
        return {context.deployment.jobs.give_up(claim)[0]: str(error)}
    log.error("job %s: %s failed", claim.job_id, claim.unit, exc_info=error)
    reason = f"{type(error).__name__}: {error}"
    outcome, ticket = context.deployment.jobs.give_up(claim, reason[:500], final=final or isinstance(error, HOPELESS))
    if outcome == "retry":
        context.deployment.publisher.unit(claim.job_id, claim.unit, claim.index, seen=ticket)
    return {outcome: reason}
