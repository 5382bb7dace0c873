"""kombu's Redis transports, plain and Sentinel, with the message filter and with connections that notice outages."""

from __future__ import annotations

from typing import Any

import kombu
from celery.app import amqp
from kombu.transport import redis

from blobstore.redis.outages import health_of, watched
from tasks.jobs.connection import RETRY_EVERY_S
from tasks.messaging.message_filter import MessageFilter

INTERVAL_MAX = 5  # its position among the arguments of kombu's `_ensure_connection`


class _WatchedChannel:
    """A base of kombu's Redis channels. server: the broker as messages name it, a transport option."""

    server = "the broker"

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        options: dict[str, Any] = super()._connparams(asynchronous)  # type: ignore[misc]  # of the channel
        connection_class = watched(options["connection_class"])
        return {**options, "connection_class": connection_class, "health": health_of(self.server)}


class Channel(MessageFilter, _WatchedChannel, redis.Channel):
    """A channel of one server."""

    from_transport_options = (*redis.Channel.from_transport_options, "server")


class SentinelChannel(MessageFilter, _WatchedChannel, redis.SentinelChannel):
    """A channel of the master that Sentinels name."""

    from_transport_options = (*redis.SentinelChannel.from_transport_options, "server")


class Transport(redis.Transport):
    """The transport to one server."""

    Channel = Channel


class SentinelTransport(redis.SentinelTransport):
    """The transport to the master that Sentinels name."""

    Channel = SentinelChannel


class Connection(kombu.Connection):
    """A connection that uses these transports for every URL scheme."""

    def get_transport_cls(self) -> type[Transport | SentinelTransport]:
        """The transport for the scheme of the URL."""
        return SentinelTransport if self.transport_cls == "sentinel" else Transport

    def _ensure_connection(self, *args: Any, **options: Any) -> Any:
        """Connect as kombu does, with pauses that stay short: a worker takes work soon after an outage."""
        if len(args) < INTERVAL_MAX:
            options.setdefault("interval_max", RETRY_EVERY_S)
        return super()._ensure_connection(*args, **options)


class AMQP(amqp.AMQP):
    """Celery's AMQP class with these connections."""

    Connection = Connection
