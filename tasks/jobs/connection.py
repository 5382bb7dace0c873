"""Connections to the server of job records: clients that survive a short outage, and waits for memory."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

import redis

from blobstore import BlobStoreUnavailableError
from blobstore.redis.client import REPLY_TIMEOUT_S, open_client
from blobstore.redis.errors import is_out_of_memory
from blobstore.redis.urls import RedisURLError
from tasks.errors import ServerError

log = logging.getLogger(__name__)
PATIENCE_S = 60.0
IMPATIENCE_S = 2.0
RETRY_EVERY_S = 2.0
HEALTH_CHECK_S = 30
FULL_PATIENCE_S = 60.0
FULL_PAUSE_S = 1.0
# The connections log an outage; who waits for its end need not.
OUTAGES = (BlobStoreUnavailableError, ServerError, redis.ConnectionError, redis.TimeoutError)
T = TypeVar("T")


def connect(url: str, *, patient: bool = False, reply_timeout_s: float = REPLY_TIMEOUT_S) -> redis.Redis:
    """A client for `url`. A patient one keeps trying for a minute, the other for two seconds.

    Raises:
        ServerError: `url` is not a valid Redis URL.
    """
    try:
        return open_client(
            url,
            patience_s=patience_s(patient=patient),
            pause_s=RETRY_EVERY_S,
            health_check_interval_s=HEALTH_CHECK_S,
            reply_timeout_s=reply_timeout_s,
        )
    except RedisURLError as error:
        raise ServerError(f"LONGTAKE_REDIS_URL: {error}") from None


def patience_s(*, patient: bool) -> float:
    """How many seconds a call waits in an outage."""
    return PATIENCE_S if patient else IMPATIENCE_S


def retry_while_full(
    call: Callable[[], T], is_full: Callable[[Exception], bool], *, patience_s: float, wanted: str
) -> T:
    """The result of `call`, repeated for up to `patience_s` while `is_full` says that it failed for lack of room.

    Any other error is raised at once, and lack of room when `patience_s` is over.
    """
    start = time.monotonic()
    waits = False
    while True:
        try:
            return call()
        except Exception as error:
            if not is_full(error) or time.monotonic() >= start + patience_s:
                raise
            if not waits:
                log.warning("waiting for %s: %s", wanted, error)
            waits = True
        time.sleep(FULL_PAUSE_S)


def when_there_is_memory(call: Callable[[], T], *, patient: bool) -> T:
    """The result of `call`, which a full Redis refuses as a whole; a patient caller waits about a minute for memory.

    Raises:
        redis.OutOfMemoryError: the server stayed full.
    """
    patience_s = FULL_PATIENCE_S if patient else 0.0
    try:
        return retry_while_full(call, is_out_of_memory, patience_s=patience_s, wanted="Redis to have memory")
    except redis.ResponseError as error:
        if not is_out_of_memory(error):
            raise
        raise redis.OutOfMemoryError(f"Redis is full; raise its maxmemory ({error})") from error
