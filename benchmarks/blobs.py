"""How quickly blobs go into a Redis and come back, and what memory that takes, against bare SET and GET.

    python benchmarks/blobs.py [--rounds 9] [--sizes 1 8 32 128] [--aof] [--json out/blobs.json]

The reference writes the same chunks with SET and reads them with GET over the same client, in pipelines of several
depths of which the quickest counts; what it got is joined to one value. Ours stands beside it twice: without
verification (no SHA-256, nothing read back, what is stored taken for right), and as it is. All of them run in turn in
each round, and medians are shown. Every put meets a server that has given the memory of the one before back, so that
all of them write into new memory, as what is really new does. Peaks are those of Python's own memory (tracemalloc), the
blob itself included, in a call by itself.
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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, it finds the packages beside it

from benchmarks import report
from blobstore import RedisBlobStore, blob_id_of
from blobstore.manifest import Manifest
from blobstore.protocol import hex_of
from blobstore.redis.chunks import Chunks
from blobstore.redis.hashing import ThreadedHasher
from blobstore.redis.store import CHUNK_BYTES
from tests.conftest import RedisProcess

DEPTHS = (1, 4, 16)  # commands in a pipeline of the reference
MB = 1_000_000
Candidates = dict[str, Callable[[], object]]


def main() -> None:
    """Print a line for the put and one for the get of each size."""
    parser = report.parser(__doc__, "blobs")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 8, 32, 128], metavar="MB")
    parser.add_argument("--aof", action="store_true", help="let the server append to a file, as a deployment's does")
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
    """The rows of one size; ends the program when other bytes come back."""
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
            sys.exit("other bytes came back")
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
    """A line of the table. before: called before each call, untimed. kept: bytes that the caller has all the time."""
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
    """A blob in chunks as bare code would keep it: a string for each."""

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
    """Chunks of ours, but nothing is hashed or read back."""

    def __init__(self, client: redis.Redis, hexdigest: str) -> None:
        super().__init__(client)
        self._hexdigest = hexdigest

    def queue_first(self, pipe: Pipeline, key: str) -> None:
        """A cheap command in place of the read."""
        pipe.exists(key)

    def differing(self, key: str, manifest: Manifest, data: memoryview, first: list[bytes | None]) -> int | None:
        """None, unseen."""
        return None

    def _new_hasher(self) -> ThreadedHasher:
        return Known(self._hexdigest)


class Known(ThreadedHasher):
    """A hash that was known before."""

    def __init__(self, hexdigest: str) -> None:
        super().__init__()
        self._known = hexdigest

    def update(self, pieces: Iterable[bytes], *, last: bool) -> None:
        """Nothing to do."""

    def hexdigest(self) -> str:
        """What was known."""
        return self._known


def unverified(client: redis.Redis, blob_id: str) -> RedisBlobStore:
    """A store of ours that believes that whatever it reads is this blob."""
    store = RedisBlobStore(client)
    store._chunks = Trusting(client, hex_of(blob_id))
    return store


def put_unverified(store: RedisBlobStore, data: bytes, blob_id: str) -> None:
    """Put `data`, its hash being known."""
    with patch("blobstore.redis.store.blob_id_of", return_value=blob_id):
        store.put(data)


def empty(client: redis.Redis) -> None:
    """Have the server give all its memory back; it keeps the scripts."""
    client.flushall(asynchronous=False)
    client.memory_purge()


def peak_of(call: Callable[[], object]) -> int:
    """Most bytes that Python held at a time for this call."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


if __name__ == "__main__":
    main()
