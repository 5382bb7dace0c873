"""Redis clients: one connector for job records and blobs."""

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
    """A URL that no Redis client can use. The message does not quote it: a password can stand anywhere in it."""


def open_client(url: str, *, retries: int, retry_every_s: float = 1.0, health_check_interval_s: int = 0) -> redis.Redis:
    """A client for `url`; nothing is connected yet.

    retries: how often a lost connection is tried again, at most `retry_every_s` apart. health_check_interval_s: idle
    connections are probed before use after this long; 0 for never.

    Raises:
        RedisURLError: `url` has another scheme, unknown options, or cannot be read.
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
        pool.connection_class(**pool.connection_kwargs)  # does not connect, but refuses unknown options
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
