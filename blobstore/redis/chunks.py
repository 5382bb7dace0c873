"""How a blob's bytes get into one hash on a Redis server and back: a few chunks at a time, with little memory beside.

No script sees a chunk: Lua would copy it twice, and hashing it there would keep the server from all others.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import cast

import redis
from redis.client import Pipeline

from blobstore.manifest import Manifest
from blobstore.redis.errors import results_of
from blobstore.redis.hashing import BesideHash

CHUNKS_PER_WRITE = 16
CHUNKS_PER_READ = 2  # the client holds a reply twice while it parses it
STAGING_MS = 2 * 60 * 1000


class Chunks:
    """Moves chunks between memory and the server of `client`. Safe to share between threads; errors are redis-py's."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def write(self, key: str, manifest: Manifest, data: memoryview) -> list[bytes | None]:
        """Add `data` to the hash `key`, which expires after STAGING_MS without another write.

        Returns its first chunks, read back in the round trip of the last write, for `differing`.
        """
        first: list[bytes | None] = []
        for group in _groups(manifest, CHUNKS_PER_WRITE):
            with self._redis.pipeline(transaction=False) as pipe:
                for index in group:
                    pipe.hset(key, str(index), cast("bytes", data[manifest.span(index)]))
                pipe.pexpire(key, STAGING_MS)
                if group.stop == manifest.chunks:
                    self.queue_first(pipe, key)
                first = results_of(pipe)[-1]
        return first

    def queue_first(self, pipe: Pipeline, key: str) -> None:
        """Add to a pipeline what reads the first chunks under `key`; missing ones are None."""
        pipe.hmget(key, [str(index) for index in range(CHUNKS_PER_READ)])

    def differing(self, key: str, manifest: Manifest, data: memoryview, first: list[bytes | None]) -> int | None:
        """The first chunk under `key` that is missing or differs from `data`, or None. Faster than hashing.

        first: the first chunks, read before. They are taken out of the list, so that nobody keeps them in memory.
        """
        found = first
        for group in _groups(manifest, CHUNKS_PER_READ):
            found = found or self._get(key, group)
            for index in group:
                if found.pop(0) != bytes(data[manifest.span(index)]):
                    return index
        return None

    def read(self, key: str, manifest: Manifest) -> tuple[bytes, str] | None:
        """The bytes under `key` and their SHA-256 in hex, or None where a chunk is missing or of another length.

        Reserves `manifest.size` bytes at once: compare it with what is really there before.
        """
        data = _room_for(manifest.size)
        with self._new_hash() as digest:
            for group in _groups(manifest, CHUNKS_PER_READ):
                chunks = [chunk or b"" for chunk in self._get(key, group)]
                if any(len(chunk) != manifest.length(index) for index, chunk in zip(group, chunks, strict=True)):
                    return None
                data.writelines(chunks)
                digest.update(chunks, last=group.stop == manifest.chunks)
            return data.getvalue(), digest.hexdigest()

    def _new_hash(self) -> BesideHash:
        return BesideHash()

    def _get(self, key: str, indexes: range) -> list[bytes | None]:
        return cast("list[bytes | None]", self._redis.hmget(key, [str(index) for index in indexes]))


def _groups(manifest: Manifest, size: int) -> Iterator[range]:
    """The numbers of all chunks, `size` of them at a time."""
    return (range(first, min(first + size, manifest.chunks)) for first in range(0, manifest.chunks, size))


def _room_for(size: int) -> io.BytesIO:
    """An empty buffer that does not move when it is filled, and gives its bytes away without a copy."""
    data = io.BytesIO()
    if size:
        data.seek(size - 1)
        data.write(b"\0")
        data.seek(0)
    return data
