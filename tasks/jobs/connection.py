"""Connections to the server of job records: clients that survive a short outage, and waits for memory."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from typing import TypeVar

import redis

from blobstore import BlobStoreUnavailableError
from blobstore.redis.client import REPLY_TIMEOUT_S, open_client
from blobstore.redis.errors import is_out_of_memory, lacks_password, reply_of
from blobstore.redis.outages import NOT_TRUSTED, RefusedError, reason_of
from blobstore.redis.urls import RedisURLError, shown_url
from tasks.errors import ServerError, UnreachableError
from tasks.jobs.key_types import CheckedClient

log = logging.getLogger(__name__)
PATIENCE_S = 60.0
IMPATIENCE_S = 2.0
RETRY_EVERY_S = 2.0
HEALTH_CHECK_S = 30
FULL_PATIENCE_S = 60.0
FULL_PAUSE_S = 1.0
QUIET_S = 5.0  # without a refusal for so long, a call that succeeds proves that there is room again
# The connections log an outage; who waits for its end need not.
OUTAGES = (BlobStoreUnavailableError, ServerError, redis.ConnectionError, redis.TimeoutError)
T = TypeVar("T")


IS_CLUSTER = (
    "is a Redis Cluster, which cannot run scripts on the keys of a job; use one server, or Sentinel for failover"
)
_NO_DATABASE = "DB index is out of range"
_OF_CLUSTER = re.compile(r"CROSSSLOT|MOVED|\bslot\b")
_LACKS_RIGHT = re.compile("unknown command|no permissions|can't run this|without MULTI", re.IGNORECASE)
_HUNG_UP = ("Connection reset by peer", "Connection closed by server")
_NOT_STARTED = ("Connection refused", "No such file or directory")


def unreachable(url: str, error: redis.RedisError) -> str:
    """What is wrong with the Redis server at `url`, which does not answer as it should, and what to do."""
    server = f"Redis at {shown_url(url)}"
    if isinstance(error, RefusedError):
        return f"{server} cannot be used: {error}"
    if lacks_password(error):
        return f"{server} asks for a password; put it into LONGTAKE_REDIS_URL"
    reason = reason_of(error)
    if reason in _NOT_STARTED:
        advice = "start redis-server, or set LONGTAKE_REDIS_URL; `longtake render` needs none"
    elif isinstance(error, redis.AuthenticationError):
        advice = "check user and password in LONGTAKE_REDIS_URL"
    elif NOT_TRUSTED in reason:
        advice = "check its host, or name who signed it: ?ssl_ca_certs=/path/ca.pem at the end of LONGTAKE_REDIS_URL"
    elif reason in _HUNG_UP and url.startswith("redis://"):
        advice = "if it expects TLS, LONGTAKE_REDIS_URL must begin with rediss://; else check the network"
    else:
        advice = "check LONGTAKE_REDIS_URL and the network"
    return f"{server} cannot be reached: {reason}; {advice}"


def refused(url: str, error: redis.RedisError) -> str:
    """What the Redis server at `url` does not do for longtake, as it replied, and what to do."""
    server, reply = f"Redis at {shown_url(url)}", reply_of(error)
    if _OF_CLUSTER.search(reply):
        return f"{server} {IS_CLUSTER}"
    if _LACKS_RIGHT.search(reply):
        return f"{server} denies its user what longtake needs: {reply}; see the ACL in docs/operations.md"
    if _NO_DATABASE in reply:
        return f"{server} has no such database; give a lower number at the end of its URL, such as /0"
    return f"{server} (LONGTAKE_REDIS_URL): {reply}"


def connect(
    url: str, *, patient: bool = False, reply_timeout_s: float = REPLY_TIMEOUT_S, typed: bool = False
) -> redis.Redis:
    """A client for `url`. A patient one keeps trying for a minute, the other for two seconds.

    typed: in an outage it raises UnreachableError. Where a key of the deployment holds another type than longtake keeps
    there, every client raises KeyTypeError.

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
            client_class=CheckedClient,
            raised=(lambda error: UnreachableError(unreachable(url, error), reason_of(error))) if typed else None,
        )
    except RedisURLError as error:
        raise ServerError(f"LONGTAKE_REDIS_URL: {error}") from None


def server_time(client: redis.Redis) -> float:
    """Seconds since the epoch by the server's clock, as all times in records are."""
    seconds, micros = client.time()
    return float(seconds + micros / 1e6)


def patience_s(*, patient: bool) -> float:
    """How many seconds a call waits in an outage."""
    return PATIENCE_S if patient else IMPATIENCE_S


class Shortage:
    """A server that is full. However many calls wait for room, this process logs the start and the end."""

    def __init__(self, what: str, wanted: str) -> None:
        """The lines are "waiting for `what` to have `wanted`" and "`what` has `wanted` again"."""
        self._what = what
        self._wanted = wanted
        self._times: dict[str, float] = {}  # atomic without a lock, which a fork could copy while it is held

    def refused(self, error: Exception, called_at: float) -> None:
        """Record that a call was refused. called_at: when it began, by the monotonic clock."""
        if called_at < self._times.get("ended", called_at):
            return  # the refusal is older than the end that another call saw
        now = self._times["last"] = time.monotonic()
        if self._times.setdefault("since", now) is now:
            log.warning("waiting for %s to have %s: %s", self._what, self._wanted, reply_of(error))

    def served(self, *, waited: bool) -> None:
        """Record that a call succeeded. waited: it was refused before."""
        now = time.monotonic()
        if "since" in self._times and (waited or now - self._times["last"] > QUIET_S):
            self._times["ended"] = now
            since = self._times.pop("since", None)
            if since is not None:
                log.warning("%s has %s again after %.1f s", self._what, self._wanted, now - since)


_broker_shortage = Shortage("Redis", "memory")


def retry_while_full(
    call: Callable[[], T], is_full: Callable[[Exception], bool], *, patience_s: float, shortage: Shortage
) -> T:
    """The result of `call`, repeated for up to `patience_s` while `is_full` says that it failed for lack of room.

    Any other error is raised at once, and lack of room when `patience_s` is over.
    """
    start = time.monotonic()
    waited = False
    while True:
        called_at = time.monotonic()
        try:
            result = call()
        except Exception as error:
            if not is_full(error) or not patience_s:
                raise
            shortage.refused(error, called_at)
            if time.monotonic() >= start + patience_s:
                raise
        else:
            shortage.served(waited=waited)
            return result
        waited = True
        time.sleep(FULL_PAUSE_S)


def when_there_is_memory(call: Callable[[], T], *, patient: bool) -> T:
    """The result of `call`, which a full Redis refuses as a whole; a patient caller waits about a minute for memory.

    Raises:
        redis.OutOfMemoryError: the server stayed full.
    """
    patience_s = FULL_PATIENCE_S if patient else 0.0
    try:
        return retry_while_full(call, is_out_of_memory, patience_s=patience_s, shortage=_broker_shortage)
    except redis.ResponseError as error:
        if not is_out_of_memory(error):
            raise
        raise redis.OutOfMemoryError(f"Redis is full; raise its maxmemory ({reply_of(error)})") from error
