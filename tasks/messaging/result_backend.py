"""Celery's result backends, plain and Sentinel, with connections that notice outages and wait for their end."""

from __future__ import annotations

from typing import Any

import redis
from celery.backends import redis as backends
from redis.sentinel import SentinelManagedConnection

from blobstore.redis.outages import DeadlineRetry, health_of, watched
from tasks.jobs.connection import RETRY_EVERY_S

PATIENCE_S = 20.0


class _WatchedBackend:
    """A base of Celery's Redis backends; the transport options name the server and its keepalive arguments."""

    _transport_options: dict[str, Any]
    plain_class: type[Any] = redis.Connection

    def _params_from_url(self, url: str, defaults: dict[str, Any]) -> dict[str, Any]:
        options: dict[str, Any] = super()._params_from_url(url, defaults)  # type: ignore[misc]  # of the backend
        options["connection_class"] = watched(options.get("connection_class", self.plain_class))
        options["health"] = health_of(self._transport_options["server"])
        options["retry"] = DeadlineRetry(PATIENCE_S, RETRY_EVERY_S)
        options |= self._transport_options["keepalive"]
        return options


class RedisBackend(_WatchedBackend, backends.RedisBackend):
    """Results on one server."""


class SentinelBackend(_WatchedBackend, backends.SentinelBackend):
    """Results on the master that Sentinels name."""

    plain_class = SentinelManagedConnection
