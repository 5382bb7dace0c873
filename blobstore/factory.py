"""Opens the blob store of a URL."""

from __future__ import annotations

from blobstore.memory import InMemoryBlobStore
from blobstore.protocol import DEFAULT_PIN_LEASE_S, DEFAULT_TTL_S, BlobStoreConfigError, ManagedBlobStore
from blobstore.redis.client import REPLY_TIMEOUT_S, open_client
from blobstore.redis.store import DEFAULT_PREFIX, RedisBlobStore
from blobstore.redis.urls import RedisURLError

PATIENCE_S = 2.0


def open_blob_store(
    url: str,
    *,
    prefix: str = DEFAULT_PREFIX,
    ttl_s: float = DEFAULT_TTL_S,
    pin_lease_s: float = DEFAULT_PIN_LEASE_S,
    patience_s: float = PATIENCE_S,
    reply_timeout_s: float = REPLY_TIMEOUT_S,
) -> ManagedBlobStore:
    """The store at `url`: `memory:`, or a Redis server, in a form of `blobstore.redis.urls.FORMS`.

    It does not connect; `check()` does. `memory:` is a new, empty store at each call; other processes cannot see it.
    prefix: the start of all keys on a Redis server. ttl_s, pin_lease_s: see `ManagedBlobStore`. patience_s: how
    long a call waits in an outage.

    Raises:
        BlobStoreConfigError: any other URL. The message does not quote it.
    """
    if url == "memory:":
        return InMemoryBlobStore(ttl_s=ttl_s, pin_lease_s=pin_lease_s)
    try:
        client = open_client(url, patience_s=patience_s, reply_timeout_s=reply_timeout_s)
    except RedisURLError as error:
        raise BlobStoreConfigError(f"cannot open a blob store: {error} (or memory:, for one process)") from None
    return RedisBlobStore(client, prefix=prefix, ttl_s=ttl_s, pin_lease_s=pin_lease_s)
