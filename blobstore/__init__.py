"""Content-addressed bytes: stored once, verified on read, kept while pinned."""

from __future__ import annotations

from blobstore.factory import open_blob_store
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
from blobstore.redis.store import RedisBlobStore

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
