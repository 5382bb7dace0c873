"""The blob store on a Redis server."""

from __future__ import annotations

from blobstore.redis.store import RedisBlobStore

__all__ = ["RedisBlobStore"]
