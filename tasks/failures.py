"""What becomes of a claim whose work failed: laid down for another try, or the end of its job."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis

from blobstore import BlobCorruptError, BlobNotFoundError, BlobStoreUnavailableError
from ltx2.errors import ContinuationError, TimelineError, UnsupportedStateError
from tasks.records import Claim
from tasks.runtime import Runtime

log = logging.getLogger(__name__)
# No other attempt and no other host can change these.
HOPELESS = (ContinuationError, TimelineError, UnsupportedStateError)
OUTAGE_PAUSE_S = 5.0


class InputLostError(Exception):
    """A blob that a unit of work reads is missing or damaged; `index` is the segment that made it."""

    def __init__(self, index: int, cause: Exception) -> None:
        super().__init__(f"what segment {index} left was lost: {cause}")
        self.index = index


@contextmanager
def reading_from(index: int) -> Iterator[None]:
    """Tell a lost input from what goes wrong with a unit's own blobs."""
    try:
        yield
    except (BlobNotFoundError, BlobCorruptError) as error:
        raise InputLostError(index, error) from error


def give_up(room: Runtime, claim: Claim, error: Exception, *, final: bool = False) -> dict[str, Any]:
    """Lay down a claim that failed.

    An outage of a server is nobody's failed attempt: the reconciler publishes the work again. Other errors are counted,
    and the work is published anew while attempts are left; a hopeless one ends the job at once.
    """
    if isinstance(error, (BlobStoreUnavailableError, redis.ConnectionError, redis.TimeoutError)):
        log.warning("job %s: %s is laid down, a server is out: %s", claim.job_id, claim.unit, error)
        time.sleep(OUTAGE_PAUSE_S)
        return {room.jobs.give_up(claim): str(error)}
    log.error("job %s: %s failed", claim.job_id, claim.unit, exc_info=error)
    reason = f"{type(error).__name__}: {error}"
    outcome = room.jobs.give_up(claim, reason[:500], final=final or isinstance(error, HOPELESS))
    if outcome == "retry":
        room.publisher.unit(claim.job_id, claim.unit, claim.index)
    return {outcome: reason}
