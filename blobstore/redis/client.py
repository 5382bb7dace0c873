"""Opens Redis clients, for job records and for blobs."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from blobstore.redis.outages import DeadlineRetry, Raised, health_of, watched
from blobstore.redis.urls import DEFAULT_PORT, RedisAddress, RedisURLError, Sentinels, parse_url

CONNECT_TIMEOUT_S = 5.0
REPLY_TIMEOUT_S = 30.0
# A connection whose packets vanish, as behind a NAT that forgot it, is noticed after about half a minute. Not every
# platform has every option.
KEEPALIVE_OPTIONS = {
    getattr(socket, name): value
    for name, value in {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 6, "TCP_USER_TIMEOUT": 30_000}.items()
    if hasattr(socket, name)
}
SENTINEL_TIMEOUT_S = 1.0


def keepalive(url: str) -> dict[str, Any]:
    """The keepalive arguments of a connection to `url`; none for a Unix socket."""
    if url.startswith("unix:"):
        return {}
    return {"socket_keepalive": True, "socket_keepalive_options": KEEPALIVE_OPTIONS}


def sentinel_options(sentinels: Sentinels, tls: Mapping[str, str | bool]) -> dict[str, Any]:
    """The arguments of connections to Sentinels: one that is down is passed over soon. tls: empty without TLS."""
    return {
        **({"ssl": True, **tls} if tls else {}),
        "username": sentinels.username or None,
        "password": sentinels.password or None,
        "socket_connect_timeout": SENTINEL_TIMEOUT_S,
        "socket_timeout": SENTINEL_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
    }


def open_client(
    url: str,
    *,
    patience_s: float,
    pause_s: float = 1.0,
    health_check_interval_s: int = 0,
    reply_timeout_s: float = REPLY_TIMEOUT_S,
    raised: Raised | None = None,
    client_class: type[redis.Redis] = redis.Redis,
) -> redis.Redis:
    """A client for `url`; it connects on the first command.

    patience_s: how long a call is repeated in an outage, with pauses of at most `pause_s`. health_check_interval_s:
    connections that were idle for longer are checked before use; 0 for never. reply_timeout_s: a reply that takes
    longer is a lost connection. raised: see `DeadlineRetry`. client_class: of the client that is returned.

    Raises:
        RedisURLError: `url` has another scheme or unknown options, or is malformed.
    """
    address = parse_url(url)
    options: dict[str, Any] = {
        "socket_connect_timeout": min(CONNECT_TIMEOUT_S, reply_timeout_s),
        "socket_timeout": reply_timeout_s,
        **keepalive(url),
        "health_check_interval": health_check_interval_s,
        "retry": DeadlineRetry(patience_s, pause_s, raised),
    }
    try:
        open_one = _sentinel_client if address.sentinels else _client
        client = open_one(address, options, client_class)
        pool = client.connection_pool
        pool.connection_class = watched(pool.connection_class)
        pool.connection_kwargs["health"] = health_of(address.shown)
        pool.connection_class(**pool.connection_kwargs)  # does not connect; fails for bad values of TLS options
    except (TypeError, ValueError, redis.RedisError):
        raise RedisURLError(f"the TLS options of the {address.scheme}: URL are not valid") from None
    return client


def _client(address: RedisAddress, options: dict[str, Any], client_class: type[redis.Redis]) -> redis.Redis:
    return client_class.from_url(address.for_redis, **options)


def _sentinel_client(address: RedisAddress, options: dict[str, Any], client_class: type[redis.Redis]) -> redis.Redis:
    assert address.sentinels
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        address.sentinels.hosts, sentinel_kwargs=sentinel_options(address.sentinels, address.tls_options)
    )
    if address.tls_options:
        options |= {"ssl": True, **address.tls_options}
    login = {"username": address.username or None, "password": address.password or None}
    client: redis.Redis = sentinel.master_for(  # type: ignore[no-untyped-call]
        address.sentinels.master_name, client_class, db=address.db, **login, **options
    )
    return client


def server_of(client: redis.Redis) -> str:
    """The server of a client, as messages name it."""
    where = client.connection_pool.connection_kwargs
    if health := where.get("health"):
        return str(health.server)
    return str(where.get("path") or f"{where.get('host', 'localhost')}:{where.get('port', DEFAULT_PORT)}")
