"""Outages of a Redis server: connections that leave a server that refuses work, and retries with a deadline.

A server that is a replica, loads its data or cannot save it answers, but not with what was asked. Its connections are
dropped like those of a server that is down: behind one address, the next connection may reach another server.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.connection import AbstractConnection
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, SentinelManagedConnection

log = logging.getLogger(__name__)
log.addHandler(logging.NullHandler())  # a program that does not set up logging shows the error, and no line before it
FIRST_RETRY_S = 0.1
PROBE_KEY = "longtake:check"
REFUSALS = {
    "READONLY": "it is a read-only replica",
    "UNBLOCKED": "it became a replica",
    "MASTERDOWN": "it is a replica that has lost its master",
    "LOADING": "it is loading its data",
    "MISCONF": "it cannot save its data, so it takes no writes",
    "NOREPLICAS": "it has too few replicas, so it takes no writes",
    "CLUSTERDOWN": "its cluster is down",
    "BUSY": "it runs a script that takes long",
}
"""The codes of replies that are outages, in words."""

# Redis 7 begins the error of a script with the code, Redis 6 has it after the position.
_CODE = re.compile(rf"(?:^|@user_script: ?\d+: -)({'|'.join(REFUSALS)})\b")
_CONNECTING = re.compile(r"^Error (-?\d+ )?connecting to \S+\. ")
_LOST = re.compile(r"^Error while (?:reading from|writing to) .*\(\d+, '([^']+)'\)$")
_BAD_CERTIFICATE = re.compile(r"^.*CERTIFICATE_VERIFY_FAILED.*?verify failed: (.*?)(?: \(_ssl\.c:\d+\))?$")
NOT_TRUSTED = "its certificate is not valid here"
T = TypeVar("T")
Raised = Callable[[redis.RedisError], redis.ConnectionError]
_calls = threading.local()


def reason_of(error: BaseException) -> str:
    """Why a connection failed, without the address, which the caller shows, and without internals of libraries."""
    text = _CONNECTING.sub("", str(error)).removesuffix(".")
    return _LOST.sub(r"\1", _BAD_CERTIFICATE.sub(rf"{NOT_TRUSTED}: \1", text))


class RefusedError(redis.ConnectionError):
    """The server refuses all work, or all writes, for now."""


def refusal_of(error: BaseException | None) -> str | None:
    """The code of a reply that is an outage, or None."""
    if not isinstance(error, redis.RedisError):
        return None
    code = getattr(error, "status_code", None) or ("READONLY" if isinstance(error, redis.ReadOnlyError) else None)
    if code in REFUSALS:
        return str(code)
    found = _CODE.search(str(error))
    return found[1] if found else None


class ServerHealth:
    """What this process knows about one server. It logs when an outage begins, and when it ends.

    refuses: the server answered that it takes no work or no writes; connections then write a key before they are used.
    generation: connections of an earlier one are not used again.
    """

    def __init__(self, server: str) -> None:
        self.server = server
        self.refuses = False
        self.generation = 0
        self._outage: dict[str, float] = {}  # atomic without a lock, which a fork could copy while it is held

    @property
    def is_out(self) -> bool:
        """Whether the server is known to be out."""
        return bool(self._outage)

    def refused(self, reason: str) -> None:
        """Record that the server refuses work; all its connections are stale now."""
        if not self.refuses:
            self.refuses = True
            self.generation += 1
        self.failed(reason)

    def failed(self, reason: str) -> None:
        """Record that no usable connection could be made."""
        now = time.monotonic()
        if self._outage.setdefault("since", now) is now:
            log.warning("Redis at %s cannot be used, waiting for it: %s", self.server, reason)

    def works(self) -> None:
        """Record that a usable connection was made."""
        self.refuses = False
        since = self._outage.pop("since", None)
        if since is not None:
            log.warning("Redis at %s can be used again after %.1f s", self.server, time.monotonic() - since)


_servers: dict[str, ServerHealth] = {}


def health_of(server: str) -> ServerHealth:
    """What this process knows about `server`, an address as messages show it."""
    return _servers.setdefault(server, ServerHealth(server))


class DeadlineRetry(Retry):
    """Repeats a call whose connection failed until `patience_s` is over, with pauses of at most `pause_s`.

    Calls inside a call, such as the connecting, share its deadline.
    """

    __hash__ = Retry.__hash__

    def __init__(self, patience_s: float, pause_s: float, raised: Raised | None = None) -> None:
        """raised: makes what is raised when the time is over; None: the last error."""
        super().__init__(ExponentialWithJitterBackoff(cap=pause_s, base=FIRST_RETRY_S), sys.maxsize)
        self._patience_s = patience_s
        self._raised = raised

    def __eq__(self, other: object) -> bool:
        return self is other

    def call_with_retry(self, do: Callable[[], T], fail: Callable[..., Any], *args: Any, **options: Any) -> T:
        """The result of `do`; raises its last error, or what `raised` makes of it, when the time is over."""
        outer: float | None = getattr(_calls, "deadline", None)
        deadline = time.monotonic() + self._patience_s if outer is None else outer

        def fail_in_time(error: Exception, *count: int) -> None:
            fail(error, *count)
            if time.monotonic() >= deadline:
                raise error

        _calls.deadline = deadline
        try:
            return super().call_with_retry(do, fail_in_time, *args, **options)
        except (redis.ConnectionError, redis.TimeoutError) as error:
            if outer is not None or self._raised is None:
                raise
            raise self._raised(error) from error
        finally:
            _calls.deadline = outer


class _WatchedConnection(AbstractConnection):
    """Base of the connections that `watched` makes."""

    def __init__(self, *args: Any, health: ServerHealth, **options: Any) -> None:
        self._health = health
        self._generation = health.generation
        super().__init__(*args, **options)

    def connect(self) -> None:
        """Connect, unless there is a connection that is not stale. A pool calls this before each use."""
        if self._sock and self._generation != self._health.generation:
            self.disconnect()
        super().connect()  # type: ignore[no-untyped-call]

    def connect_check_health(self, *args: Any, **options: Any) -> None:
        """Connect once, and record whether it worked."""
        if self._sock:
            return
        self._generation = self._health.generation
        try:
            super().connect_check_health(*args, **options)
        except (redis.ConnectionError, redis.TimeoutError) as error:
            self._health.failed(str(error))
            raise
        self._health.works()

    def on_connect_check_health(self, *args: Any, **options: Any) -> None:
        """Set the connection up; to a server that refused writes, it must write a key."""
        super().on_connect_check_health(*args, **options)
        if self._health.refuses:
            self.send_command("SET", PROBE_KEY, "", "PX", 1000, check_health=False)  # type: ignore[no-untyped-call]
            with suppress(redis.ResponseError):  # a full server, or a user without this right: the next write tells
                self.read_response()

    def read_response(self, *args: Any, **options: Any) -> Any:
        """The reply; RefusedError for one that is an outage."""
        try:
            response = super().read_response(*args, **options)
        except redis.TimeoutError:
            self._health.generation += 1  # a firewall that forgot this connection has forgotten the idle ones, too
            raise
        except redis.RedisError as error:
            # a connection of Sentinel hides the reply of a replica behind an error of its own
            code = refusal_of(error) or refusal_of(error.__context__)
            if code is None:
                raise
            raise self._refused(code) from None
        for part in response if isinstance(response, list) else ():  # the replies inside a transaction
            if isinstance(part, redis.ResponseError) and (code := refusal_of(part)):
                raise self._refused(code)
        return response

    def _refused(self, code: str) -> RefusedError:
        self.disconnect()  # type: ignore[no-untyped-call]
        reason = f"{REFUSALS[code]} ({code})"
        self._health.refused(reason)
        return RefusedError(reason)


class _WatchedSentinelConnection(_WatchedConnection, SentinelManagedConnection):
    """A connection to the master that the Sentinels name."""

    def _connect_retry(self) -> None:
        try:
            super()._connect_retry()  # type: ignore[no-untyped-call]
        except MasterNotFoundError:
            reason = _why_no_master(self.connection_pool.sentinel_manager.sentinels[0])
            self._health.failed(reason)
            raise redis.ConnectionError(reason) from None

    def send_packed_command(self, *args: Any, **options: Any) -> None:
        """Send a command; reconnects to the current master, redis-py would reconnect to the last one."""
        if not self._sock:
            self.connect()
        super().send_packed_command(*args, **options)  # type: ignore[no-untyped-call]


def _why_no_master(sentinel: redis.Redis) -> str:
    """What keeps this Sentinel from naming a master; redis-py has one error for everything."""
    try:
        sentinel.ping()
    except redis.AuthenticationError:
        return "a Sentinel refuses the login; sentinel_username and sentinel_password are for it"
    except redis.RedisError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return "the certificate of a Sentinel is not valid for its address and ssl_ca_certs"
    return "no Sentinel can be reached that knows a master of this name that is up"


def watched(connection_class: type[Any]) -> type[Any]:
    """A subclass that turns outages into lost connections. Its connections take one more argument, `health`."""
    is_sentinel = issubclass(connection_class, SentinelManagedConnection)
    base = _WatchedSentinelConnection if is_sentinel else _WatchedConnection
    return type(connection_class.__name__, (base, connection_class), {})
