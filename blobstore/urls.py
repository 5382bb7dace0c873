"""Which blob store a URL means."""

from __future__ import annotations

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from blobstore.base import DEFAULT_PIN_LEASE_S, DEFAULT_TTL_S, BlobStoreConfigError, ManagedBlobStore
from blobstore.memory import InMemoryBlobStore
from blobstore.redis import DEFAULT_PREFIX, RedisBlobStore

CONNECT_TIMEOUT_S = 5.0
DATA_TIMEOUT_S = 30.0
RETRIES = 3

FORMS = "memory:, redis://[user:password@]host[:port][/db], rediss://... (the same with TLS) or unix:///path[?db=n]"


def open_blob_store(
    url: str,
    *,
    prefix: str = DEFAULT_PREFIX,
    ttl_s: float = DEFAULT_TTL_S,
    pin_lease_s: float = DEFAULT_PIN_LEASE_S,
    retries: int = RETRIES,
) -> ManagedBlobStore:
    """The store that `url` names: `memory:`, or a Redis server as `redis://`, `rediss://` or `unix://`.

    Nothing is connected yet; `check()` does. `memory:` gives a new, empty store at each call, which no other process
    can see. prefix: what all keys on a Redis server begin with. ttl_s, pin_lease_s: see `ManagedBlobStore`.
    retries: how often a lost connection is tried again, up to a second apart.
    Raises BlobStoreConfigError for any other URL.
    """
    if url == "memory:":
        return InMemoryBlobStore(ttl_s=ttl_s, pin_lease_s=pin_lease_s)
    return RedisBlobStore(_connect(url, retries), prefix=prefix, ttl_s=ttl_s, pin_lease_s=pin_lease_s)


def _connect(url: str, retries: int) -> redis.Redis:
    scheme = url.partition(":")[0]
    # no message here may quote the URL: it can hold a password, also where nobody would look for it
    if not url.startswith(("redis://", "rediss://", "unix://")):
        raise BlobStoreConfigError(f"a blob store cannot be opened by a {scheme[:20]!r} URL; it must be {FORMS}")
    try:
        client = redis.Redis.from_url(
            url,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=DATA_TIMEOUT_S,
            retry=Retry(ExponentialWithJitterBackoff(cap=1, base=0.1), retries),
        )
        pool = client.connection_pool
        pool.connection_class(**pool.connection_kwargs)  # does not connect, but refuses unknown options
    except (TypeError, ValueError, redis.RedisError):
        raise BlobStoreConfigError(
            f"the {scheme}: URL of the blob store cannot be read; it must be {FORMS}, "
            "special characters in a password percent-encoded"
        ) from None
    if client.get_encoder().decode_responses:
        raise BlobStoreConfigError("the URL of the blob store sets decode_responses; blobs are bytes, leave it out")
    return client
