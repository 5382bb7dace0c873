"""Content-addressed bytes: stored once, verified on read, kept while pinned."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from blobstore.memory import InMemoryBlobStore
from blobstore.protocol import (
    BlobCorruptError,
    BlobInfo,
    BlobNotFoundError,
    BlobStore,
    BlobStoreConfigError,
    BlobStoreError,
    BlobStoreFullError,
    BlobStoreUnavailableError,
    BlobStoreVersionError,
    Collected,
    ManagedBlobStore,
    blob_id_of,
    is_blob_id,
)

if TYPE_CHECKING:
    from blobstore.factory import open_blob_store
    from blobstore.redis.store import RedisBlobStore
else:
    # redis takes longer to import than everything else that a process needs to decode a picture
    _WITH_REDIS = {"RedisBlobStore": "blobstore.redis.store", "open_blob_store": "blobstore.factory"}

    def __getattr__(name: str) -> Any:
        if name not in _WITH_REDIS:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(_WITH_REDIS[name]), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *_WITH_REDIS})


__all__ = [
    "BlobCorruptError",
    "BlobInfo",
    "BlobNotFoundError",
    "BlobStore",
    "BlobStoreConfigError",
    "BlobStoreError",
    "BlobStoreFullError",
    "BlobStoreUnavailableError",
    "BlobStoreVersionError",
    "Collected",
    "InMemoryBlobStore",
    "ManagedBlobStore",
    "RedisBlobStore",
    "blob_id_of",
    "is_blob_id",
    "open_blob_store",
]
