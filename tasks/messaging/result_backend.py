"""Celery's result backends, plain and Sentinel: results are written without waiting, and outages are noticed."""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property
from typing import Any

import redis
from celery import states
from celery.backends import redis as backends
from redis.sentinel import SentinelManagedConnection

from blobstore.redis.outages import DeadlineRetry, health_of, watched
from tasks.jobs.changes.one_way import OneWay
from tasks.jobs.connection import RETRY_EVERY_S

PATIENCE_S = 20.0


class _WatchedBackend:
    """A base of Celery's Redis backends; the transport options name the server and its keepalive arguments."""

    _transport_options: dict[str, Any]
    plain_class: type[Any] = redis.Connection
    client: redis.Redis
    expires: int

    def _params_from_url(self, url: str, defaults: dict[str, Any]) -> dict[str, Any]:
        options: dict[str, Any] = super()._params_from_url(url, defaults)  # type: ignore[misc]  # of the backend
        options["connection_class"] = watched(options.get("connection_class", self.plain_class))
        options["health"] = health_of(self._transport_options["server"])
        options["retry"] = DeadlineRetry(PATIENCE_S, RETRY_EVERY_S)
        options |= self._transport_options["keepalive"]
        return options

    @cached_property
    def _one_way(self) -> OneWay:
        return OneWay(self.client.connection_pool)

    def _store_result(
        self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **options: Any
    ) -> Any:
        """Store a result. Celery would read the stored one first; only a message that came back can find one."""
        if state == states.IGNORED:
            return super()._store_result(task_id, result, state, traceback, request, **options)  # type: ignore[misc]
        backend: Any = self
        meta = backend._get_result_meta(result=result, state=state, traceback=traceback, request=request)
        backend._set_with_state(backend.get_key_for_task(task_id), backend.encode(meta | {"task_id": task_id}), state)
        return result

    def _set(self, key: str, value: str, expires: int | None = None) -> None:
        """Store and announce a value; it is shown to people, and nobody waits for it. A long outage may lose it."""
        with suppress(redis.ConnectionError, redis.TimeoutError):  # the connection has logged it
            self._one_way.send(("SETEX", key, expires or self.expires, value), ("PUBLISH", key, value))


class RedisBackend(_WatchedBackend, backends.RedisBackend):
    """Results on one server."""


class SentinelBackend(_WatchedBackend, backends.SentinelBackend):
    """Results on the master that Sentinels name."""

    plain_class = SentinelManagedConnection
