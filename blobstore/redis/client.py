"""Opens Redis clients, for job records and for blobs."""

from __future__ import annotations

import re
import socket
from typing import Any

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

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
SCHEMES = ("redis", "rediss", "unix")
FORMS = "redis://[user:password@]host[:port][/db], rediss://... (the same with TLS) or unix:///path[?db=n]"


MASK = "***"
# Up to the last @ before the path ends: a password may hold unescaped @, # and / by mistake.
_USER_PART = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)[^\s'\"<>]*@", re.IGNORECASE)
_SECRET_OPTION = re.compile(r"(?P<name>[?&](?:password|username))=[^&\s'\"<>]*", re.IGNORECASE)


class RedisURLError(ValueError):
    """An invalid Redis URL. The message does not quote it: any part of it can be a password."""


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
    scheme = url.partition(":")[0]
    if not url.startswith(tuple(f"{scheme}://" for scheme in SCHEMES)):
        raise RedisURLError(f"{scheme[:20]!r} is not a Redis URL scheme; the URL must be {FORMS}")
    try:
        client = redis.Redis.from_url(
            url,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=reply_timeout_s,
            **keepalive(url),
            health_check_interval=health_check_interval_s,
            retry=Retry(ExponentialWithJitterBackoff(cap=retry_every_s, base=FIRST_RETRY_S), retries),
        )
        pool = client.connection_pool
        pool.connection_class(**pool.connection_kwargs)  # does not connect; fails for unknown options
    except (TypeError, ValueError, redis.RedisError):
        raise RedisURLError(
            f"the {scheme}: URL is not valid; it must be {FORMS}, special characters in a password percent-encoded"
        ) from None
    if client.get_encoder().decode_responses:
        raise RedisURLError("the URL sets decode_responses; records and blobs are bytes, remove it")
    return client


def mask_urls(text: str) -> str:
    """`text` with the credentials of every URL in it masked: the user part, and `password` and `username` options."""
    text = _USER_PART.sub(rf"\g<scheme>{MASK}@", text)
    return _SECRET_OPTION.sub(rf"\g<name>={MASK}", text)


def shown_url(url: str) -> str:
    """`url` as messages show it: scheme, host, port and path, without user, password and query."""
    scheme, _, rest = url.partition("://")
    rest = re.split(r"\?\w+=", rest)[0]
    return f"{scheme}://{rest.rpartition('@')[2]}"
