"""Connections to the server of job records: clients that survive a short outage, and waits for memory."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

import redis

from blobstore.redis.client import REPLY_TIMEOUT_S, open_client
from blobstore.redis.errors import is_out_of_memory
from blobstore.redis.urls import RedisURLError
from tasks.errors import ServerError

log = logging.getLogger(__name__)
PATIENT_RETRIES = 40
IMPATIENT_RETRIES = 3
RETRY_EVERY_S = 2.0
HEALTH_CHECK_S = 30
FULL_PATIENCE_S = 60.0
FULL_PAUSE_S = 1.0
T = TypeVar("T")


def connect(url: str, *, patient: bool = False, reply_timeout_s: float = REPLY_TIMEOUT_S) -> redis.Redis:
    """A client for `url`. A patient one keeps trying for about a minute, the other for about a second.

    Raises:
        ServerError: `url` is not a valid Redis URL.
    """
    try:
        return open_client(
            url,
            retries=retries(patient=patient),
            retry_every_s=RETRY_EVERY_S,
            health_check_interval_s=HEALTH_CHECK_S,
            reply_timeout_s=reply_timeout_s,
        )
    except RedisURLError as error:
        raise ServerError(f"LONGTAKE_REDIS_URL: {error}") from None


def retries(*, patient: bool) -> int:
    """How often a lost connection is tried again."""
    return PATIENT_RETRIES if patient else IMPATIENT_RETRIES


def retry_while_full(
    call: Callable[[], T], is_full: Callable[[Exception], bool], *, patience_s: float, wanted: str
) -> T:
    """The result of `call`, repeated for up to `patience_s` while `is_full` says that it failed for lack of room.

    Any other error is raised at once, and lack of room when `patience_s` is over.
    """
    end = time.monotonic() + patience_s
    while True:
        try:
            return call()
        except Exception as error:
            if not is_full(error) or time.monotonic() >= end:
                raise
            log.warning("waiting for %s: %s", wanted, error)
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
