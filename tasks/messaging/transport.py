"""kombu's Redis transports, plain and Sentinel, with the message filter and with connections that notice outages."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import kombu
from celery.app import amqp
from kombu import connection
from kombu.transport import redis
from kombu.utils.json import dumps
from redis.backoff import NoBackoff
from redis.client import PubSub
from redis.exceptions import ConnectionError
from redis.retry import Retry

from blobstore.redis.outages import DeadlineRetry, health_of, watched
from tasks.jobs.changes.one_way import OneWay
from tasks.jobs.connection import RETRY_EVERY_S
from tasks.jobs.key_types import CheckedClient
from tasks.jobs.queues import HIGH_PRIORITY
from tasks.messaging.message_filter import MessageFilter

ACKNOWLEDGE_PATIENCE_S = 20.0
EVENTS = "celeryev"
INTERVAL_MAX = 5  # its position among the arguments of kombu's `_ensure_connection`


class _PolledPubSub(PubSub):
    """Commands and events, read when the event loop says that there are some.

    redis-py would read without a time limit, also from a connection that it has just made in place of a lost one, and
    the worker would be deaf until another worker sends an event.
    """

    def parse_response(self, block: bool = True, timeout: float = 0) -> Any:
        """What has arrived, or None."""
        return super().parse_response(block=False, timeout=0)  # type: ignore[no-untyped-call]


class _WatchedChannel:
    """A base of kombu's Redis channels. server: the broker as messages name it, a transport option."""

    server = "the broker"
    connection: Any
    # kombu reads the lists of a queue in this order; its own one has messages without a priority first
    priority_steps = [HIGH_PRIORITY, 0]  # noqa: RUF012 - as kombu has it

    def priority(self, number: int) -> int:
        """The step of a message with this priority."""
        return next(step for step in self.priority_steps if number >= step)

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        if self.connection is None:  # kombu would raise an AttributeError, which no publisher repeats
            raise ConnectionError("this channel was closed with its connection")
        options: dict[str, Any] = super()._connparams(asynchronous)  # type: ignore[misc]  # of the channel
        connection_class = watched(options["connection_class"])
        if asynchronous:  # the event loop polls this socket: one that replaced it after an error would not be polled
            options["retry"] = Retry(NoBackoff(), 0)
        else:  # an acknowledgement that fails would leave the worker waiting for it for ever
            options["retry"] = DeadlineRetry(ACKNOWLEDGE_PATIENCE_S, RETRY_EVERY_S)
        return {**options, "connection_class": connection_class, "health": health_of(self.server)}

    def _get_client(self) -> type[CheckedClient]:
        return CheckedClient

    @cached_property
    def subclient(self) -> PubSub:
        """The connection that receives commands and events."""
        return _PolledPubSub(self._create_client(asynchronous=True).connection_pool)  # type: ignore[attr-defined]

    @cached_property
    def _one_way(self) -> OneWay:
        return OneWay(self.pool)  # type: ignore[attr-defined]

    def _put_fanout(self, exchange: str, message: Any, routing_key: str, **options: Any) -> None:
        """Publish a message for all who listen, such as Flower. Nothing waits for an event to arrive."""
        if exchange != EVENTS:
            super()._put_fanout(exchange, message, routing_key, **options)  # type: ignore[misc]  # of the channel
            return
        topics = self._get_publish_topics(exchange, routing_key)  # type: ignore[attr-defined]
        self._one_way.send(*(("PUBLISH", topic, dumps(message)) for topic in topics))

    def close(self) -> None:
        """Close the connections."""
        if one_way := self.__dict__.pop("_one_way", None):
            one_way.close()
        super().close()  # type: ignore[misc]  # of the channel


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


class _ChoosesTransport:
    """A base of kombu's connections: they use these transports for every URL scheme."""

    transport_cls: str

    def get_transport_cls(self) -> type[Transport | SentinelTransport]:
        """The transport for the scheme of the URL."""
        return SentinelTransport if self.transport_cls == "sentinel" else Transport

    def _ensure_connection(self, *args: Any, **options: Any) -> Any:
        """Connect as kombu does, with pauses that stay short: a worker takes work soon after an outage."""
        if len(args) < INTERVAL_MAX:
            options.setdefault("interval_max", RETRY_EVERY_S)
        return super()._ensure_connection(*args, **options)  # type: ignore[misc]  # of the connection


class Connection(_ChoosesTransport, kombu.Connection):
    """A connection of its own, such as the one that a worker consumes from."""

    def Pool(self, limit: int | None = None, **_: Any) -> ConnectionPool:
        """A pool of connections like this one."""
        return ConnectionPool(self, limit)


class PooledConnection(_ChoosesTransport, connection.PooledConnection):
    """A connection of a pool, which publishers use."""


class ConnectionPool(connection.ConnectionPool):
    """kombu's pool, with these connections."""

    def new(self) -> Any:
        """Another connection."""
        return PooledConnection(self, **dict(self.connection._info(resolve=False)))


class AMQP(amqp.AMQP):
    """Celery's AMQP class with these connections."""

    Connection = Connection
