"""How a blob's bytes get into one hash on a Redis server and back: a few chunks at a time, with little memory beside.

No script sees a chunk: Lua would copy it twice, and hashing it there would keep the server from all others.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import cast

import redis

from blobstore.manifest import Manifest
from blobstore.redis.hashing import BesideHash

CHUNKS_PER_WRITE = 16
CHUNKS_PER_READ = 2  # the client holds a reply twice while it parses it
STAGING_MS = 2 * 60 * 1000


class Chunks:
    """Moves chunks between memory and the server of `client`. Safe to share between threads; errors are redis-py's."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def send(self, key: str, manifest: Manifest, data: memoryview) -> None:
        """Add `data` to the hash `key`, which goes after STAGING_MS in which nothing more comes."""
        for group in _groups(manifest, CHUNKS_PER_WRITE):
            with self._redis.pipeline(transaction=False) as pipe:
                for index in group:
                    pipe.hset(key, str(index), cast("bytes", data[manifest.span(index)]))
                pipe.pexpire(key, STAGING_MS)
                pipe.execute()

    def differing(self, key: str, manifest: Manifest, data: memoryview) -> int | None:
        """The first chunk under `key` that is not there or not as in `data`, or None. Quicker than hashing them."""
        for group in _groups(manifest, CHUNKS_PER_READ):
            for index, chunk in zip(group, self._get(key, group), strict=True):
                if chunk != bytes(data[manifest.span(index)]):
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
