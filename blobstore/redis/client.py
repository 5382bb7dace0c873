"""Opens Redis clients, for job records and for blobs."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

CONNECT_TIMEOUT_S = 5.0
REPLY_TIMEOUT_S = 30.0
FIRST_RETRY_S = 0.1
SCHEMES = ("redis", "rediss", "unix")
FORMS = "redis://[user:password@]host[:port][/db], rediss://... (the same with TLS) or unix:///path[?db=n]"


class RedisURLError(ValueError):
    """An invalid Redis URL. The message does not quote it: any part of it can be a password."""


def open_client(url: str, *, retries: int, retry_every_s: float = 1.0, health_check_interval_s: int = 0) -> redis.Redis:
    """A client for `url`; it connects on the first command.

    retries: attempts after a lost connection, at most `retry_every_s` apart. health_check_interval_s: connections that
    were idle for longer are checked before use; 0 for never.

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
            socket_timeout=REPLY_TIMEOUT_S,
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


def redacted(url: str) -> str:
    """`url` without its password."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.replace(f":{parts.password}@", ":***@")))
