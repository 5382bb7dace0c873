"""Writes the chunks of a blob to a Redis hash and reads them, a few at a time to limit memory.

Scripts never handle chunks: Lua would copy each twice, and hashing there would block the server.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import cast

import redis
from redis.client import Pipeline

from blobstore.manifest import Manifest
from blobstore.redis.errors import results_of
from blobstore.redis.hashing import ThreadedHasher

CHUNKS_PER_WRITE = 16
CHUNKS_PER_READ = 2  # redis-py holds a reply twice while it parses it
STAGING_MS = 2 * 60 * 1000


class Chunks:
    """Reads and writes chunks on the server of `client`. Thread-safe. Raises the errors of redis-py."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def write(self, key: str, manifest: Manifest, data: memoryview) -> list[bytes | None]:
        """Add `data` to the hash `key`, which expires STAGING_MS after the last write.

        Returns the first chunks, read back in the round trip of the last write, for `differing`.
        """
        first: list[bytes | None] = []
        for group in _groups(manifest, CHUNKS_PER_WRITE):
            with self._redis.pipeline(transaction=False) as pipe:
                self._queue_group(pipe, key, manifest, data, group)
                first = results_of(pipe)[-1]
        return first

    def queue_write(self, pipe: Pipeline, key: str, manifest: Manifest, data: memoryview) -> None:
        """Add to a pipeline what `write` does with a blob of at most one chunk."""
        self._queue_group(pipe, key, manifest, data, range(manifest.chunks))

    def _queue_group(self, pipe: Pipeline, key: str, manifest: Manifest, data: memoryview, group: range) -> None:
        for index in group:
            pipe.hset(key, str(index), cast("bytes", data[manifest.span(index)]))
        pipe.pexpire(key, STAGING_MS)
        if group.stop == manifest.chunks:
            self.queue_first(pipe, key)

    def queue_first(self, pipe: Pipeline, key: str) -> None:
        """Add the read of the first chunks under `key` to a pipeline; missing chunks are None."""
        pipe.hmget(key, [str(index) for index in range(CHUNKS_PER_READ)])

    def differing(self, key: str, manifest: Manifest, data: memoryview, first: list[bytes | None]) -> int | None:
        """The number of the first chunk that is missing or differs from `data`, or None. Faster than hashing.

        first: the first chunks under `key`, read before. The list is emptied, so that its owner does not keep them.
        """
        found = first
        for group in _groups(manifest, CHUNKS_PER_READ):
            found = found or self._get(key, group)
            for index in group:
                if found.pop(0) != bytes(data[manifest.span(index)]):
                    return index
        return None

    def read(self, key: str, manifest: Manifest) -> tuple[bytes, str] | None:
        """The bytes under `key` and their SHA-256 in hex, or None if a chunk is missing or has a wrong length.

        Allocates `manifest.size` bytes: compare it with the stored bytes before.
        """
        data = _buffer(manifest.size)
        with self._new_hasher() as hasher:
            for group in _groups(manifest, CHUNKS_PER_READ):
                chunks = [chunk or b"" for chunk in self._get(key, group)]
                if any(len(chunk) != manifest.length(index) for index, chunk in zip(group, chunks, strict=True)):
                    return None
                data.writelines(chunks)
                hasher.update(chunks, last=group.stop == manifest.chunks)
            return data.getvalue(), hasher.hexdigest()

    def _new_hasher(self) -> ThreadedHasher:
        return ThreadedHasher()

    def _get(self, key: str, indexes: range) -> list[bytes | None]:
        return cast("list[bytes | None]", self._redis.hmget(key, [str(index) for index in indexes]))


def _groups(manifest: Manifest, size: int) -> Iterator[range]:
    """The numbers of all chunks, in groups of `size`."""
    return (range(first, min(first + size, manifest.chunks)) for first in range(0, manifest.chunks, size))


def _buffer(size: int) -> io.BytesIO:
    """A buffer of `size` bytes, at position 0. It is not moved while it is filled, and `getvalue` does not copy."""
    data = io.BytesIO()
    if size:
        data.seek(size - 1)
        data.write(b"\0")
        data.seek(0)
    return data
