"""Throughput and memory of blobs on a Redis server, compared with plain SET and GET.

    python benchmarks/blobs.py [--rounds 9] [--sizes 1 8 32 128] [--aof] [--json out/blobs.json]

The reference, "bare", writes the same chunks with SET and reads them with GET over the same client, in pipelines of
several depths, and joins the result; the fastest depth counts. The blob store runs twice: "unverified", without SHA-256
and without reading back, and "ours", unchanged. All of them run in turn in each round; the table shows medians. Before
each put the server returns its memory, so that every put writes to new memory, as new blobs do. Peaks are of Python's
own memory (tracemalloc), including the blob, measured in a separate call.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import redis
from redis.client import Pipeline

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the packages are found when it is run as a file

from benchmarks import report
from blobstore import RedisBlobStore, blob_id_of
from blobstore.manifest import Manifest
from blobstore.protocol import hex_of
from blobstore.redis.chunks import Chunks
from blobstore.redis.hashing import ThreadedHasher
from blobstore.redis.store import CHUNK_BYTES
from tests.conftest import RedisProcess

DEPTHS = (1, 4, 16)  # commands per pipeline of the reference
MB = 1_000_000
Candidates = dict[str, Callable[[], object]]


def main() -> None:
    """Print a row for the put and one for the get of each size."""
    parser = report.parser(__doc__, "blobs")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 8, 32, 128], metavar="MB")
    parser.add_argument("--aof", action="store_true", help="let the server write an AOF, as in a deployment")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="longtake-") as folder:
        server = RedisProcess(Path(folder), "--appendonly", "yes" if options.aof else "no")
        try:
            rows = [row for size in options.sizes for row in measure(server, size, options.rounds)]
            version = redis.Redis(port=server.port).info("server")["redis_version"]
        finally:
            server.stop()
    report.write("blobs", rows, options.json, rounds=options.rounds, aof=options.aof, redis_server=version)


def measure(server: RedisProcess, megabytes: int, rounds: int) -> list[dict[str, Any]]:
    """The rows of one size. Exits when a get returns wrong bytes."""
    data = random.Random(megabytes).randbytes(megabytes * MB)
    blob_id = blob_id_of(data)
    with redis.Redis(port=server.port) as client:
        bare, ours, trusting = Bare(client, data), RedisBlobStore(client), unverified(client, blob_id)
        puts: Candidates = {f"bare {depth}": partial(bare.put, depth) for depth in DEPTHS}
        puts |= {"unverified": partial(put_unverified, trusting, data, blob_id), "ours": partial(ours.put, data)}
        rows = [row_of(megabytes, "put", puts, rounds, before=partial(empty, client), kept=len(data))]
        empty(client)
        bare.put(DEPTHS[0])
        ours.put(data)
        gets: Candidates = {f"bare {depth}": partial(bare.get, depth) for depth in DEPTHS}
        gets |= {"unverified": partial(trusting.get, blob_id), "ours": partial(ours.get, blob_id)}
        rows.append(row_of(megabytes, "get", gets, rounds))
        if not all(get() == data for get in gets.values()):
            sys.exit("a get returned wrong bytes")
        empty(client)
    return rows


def row_of(
    megabytes: int,
    what: str,
    candidates: Candidates,
    rounds: int,
    *,
    before: Callable[[], object] = lambda: None,
    kept: int = 0,
) -> dict[str, Any]:
    """A row of the table. before: called before each call, untimed. kept: bytes that the caller holds all the time."""
    took = report.in_turn(candidates, rounds, before=before)
    seconds = {name: statistics.median(times) for name, times in took.items()}
    bare = min((name for name in seconds if name.startswith("bare")), key=lambda name: seconds[name])
    row: dict[str, Any] = {"MB": megabytes, "call": what, "bare is": bare, "bare MB/s": megabytes / seconds[bare]}
    for name in ("unverified", "ours"):
        row[f"{name} MB/s"] = megabytes / seconds[name]
        row[f"{name}, of bare"] = seconds[bare] / seconds[name]
    for name, candidate in (("bare", bare), ("ours", "ours")):
        before()
        row[f"peak, {name}"] = (peak_of(candidates[candidate]) + kept) / (megabytes * MB)
    return row


class Bare:
    """A blob as plain strings, one for each chunk."""

    def __init__(self, client: redis.Redis, data: bytes) -> None:
        self._client = client
        self._view = memoryview(data)
        self._starts = {f"bare:{start}": start for start in range(0, len(data), CHUNK_BYTES)}

    def put(self, depth: int) -> None:
        """Write every chunk."""
        for keys in self._groups(depth):
            with self._client.pipeline(transaction=False) as pipe:
                for key in keys:
                    start = self._starts[key]
                    pipe.set(key, self._view[start : start + CHUNK_BYTES])
                pipe.execute()

    def get(self, depth: int) -> bytes:
        """Read every chunk and join them."""
        chunks: list[bytes] = []
        for keys in self._groups(depth):
            with self._client.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.get(key)
                chunks += pipe.execute()
        return b"".join(chunks)

    def _groups(self, depth: int) -> list[list[str]]:
        keys = list(self._starts)
        return [keys[first : first + depth] for first in range(0, len(keys), depth)]


class Trusting(Chunks):
    """Chunks without hashing and without reading back."""

    def __init__(self, client: redis.Redis, hexdigest: str) -> None:
        super().__init__(client)
        self._hexdigest = hexdigest

    def queue_first(self, pipe: Pipeline, key: str) -> None:
        """Add a cheap command instead of the read."""
        pipe.exists(key)

    def differing(self, key: str, manifest: Manifest, data: memoryview, first: list[bytes | None]) -> int | None:
        """None: nothing is compared."""
        return None

    def _new_hasher(self) -> ThreadedHasher:
        return Known(self._hexdigest)


class Known(ThreadedHasher):
    """A hasher with a known result."""

    def __init__(self, hexdigest: str) -> None:
        super().__init__()
        self._known = hexdigest

    def update(self, pieces: Iterable[bytes], *, last: bool) -> None:
        """Do nothing."""

    def hexdigest(self) -> str:
        """The known result."""
        return self._known


def unverified(client: redis.Redis, blob_id: str) -> RedisBlobStore:
    """A store that takes whatever it reads for this blob."""
    store = RedisBlobStore(client)
    store._chunks = Trusting(client, hex_of(blob_id))
    return store


def put_unverified(store: RedisBlobStore, data: bytes, blob_id: str) -> None:
    """Put `data` without hashing it."""
    with patch("blobstore.redis.store.blob_id_of", return_value=blob_id):
        store.put(data)


def empty(client: redis.Redis) -> None:
    """Remove all keys and return the memory of the server. Its scripts stay."""
    client.flushall(asynchronous=False)
    client.memory_purge()


def peak_of(call: Callable[[], object]) -> int:
    """The most bytes that Python held during the call."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


if __name__ == "__main__":
    main()
