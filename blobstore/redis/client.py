"""Opens Redis clients, for job records and for blobs."""

from __future__ import annotations

import socket
from typing import Any

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from blobstore.redis.urls import RedisURLError, parse_url

CONNECT_TIMEOUT_S = 5.0
REPLY_TIMEOUT_S = 30.0
# A connection whose packets vanish, as behind a NAT that forgot it, is noticed after about half a minute. Not every
# platform has every option.
KEEPALIVE_OPTIONS = {
    getattr(socket, name): value
    for name, value in {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 6, "TCP_USER_TIMEOUT": 30_000}.items()
    if hasattr(socket, name)
}
FIRST_RETRY_S = 0.1


def keepalive(url: str) -> dict[str, Any]:
    """The keepalive arguments of a connection to `url`; none for a Unix socket."""
    if url.startswith("unix:"):
        return {}
    return {"socket_keepalive": True, "socket_keepalive_options": KEEPALIVE_OPTIONS}


def open_client(
    url: str,
    *,
    retries: int,
    retry_every_s: float = 1.0,
    health_check_interval_s: int = 0,
    reply_timeout_s: float = REPLY_TIMEOUT_S,
) -> redis.Redis:
    """A client for `url`; it connects on the first command.

    retries: attempts after a lost connection, at most `retry_every_s` apart. health_check_interval_s: connections that
    were idle for longer are checked before use; 0 for never. reply_timeout_s: a reply that takes longer is a lost
    connection.

    Raises:
        RedisURLError: `url` has another scheme or unknown options, or is malformed.
    """
    address = parse_url(url)
    try:
        client = redis.Redis.from_url(
            address.for_redis,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=reply_timeout_s,
            **keepalive(url),
            health_check_interval=health_check_interval_s,
            retry=Retry(ExponentialWithJitterBackoff(cap=retry_every_s, base=FIRST_RETRY_S), retries),
        )
        pool = client.connection_pool
        pool.connection_class(**pool.connection_kwargs)  # does not connect; fails for bad values of TLS options
    except (TypeError, ValueError, redis.RedisError):
        raise RedisURLError(f"the TLS options of the {address.scheme}: URL are not valid") from None
    return client
