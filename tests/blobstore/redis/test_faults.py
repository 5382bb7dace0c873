"""Each test is named after a fault that a blob store on Redis survives."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable

import msgpack
import pytest
import redis

from blobstore import (
    BlobCorruptError,
    BlobNotFoundError,
    BlobStoreError,
    BlobStoreFullError,
    BlobStoreUnavailableError,
    RedisBlobStore,
    blob_id_of,
    open_blob_store,
)
from blobstore.manifest import Manifest
from blobstore.redis.chunks import CHUNKS_PER_WRITE
from tests.blobstore.controls import proxy
from tests.conftest import wait_until

MIB = 1024 * 1024
CHUNK_BYTES = 10
DATA = b"0123456789abcdefghijklmnopqrst???"
BLOB_ID = blob_id_of(DATA)
KEY = "p:blob:" + BLOB_ID.removeprefix("sha256:")
QUARANTINE = "p:quarantine:" + BLOB_ID.removeprefix("sha256:")


@pytest.fixture
def store(server) -> RedisBlobStore:
    store = RedisBlobStore(server.client, prefix="p:", ttl_s=1000, chunk_bytes=CHUNK_BYTES)
    assert store.put(DATA) == BLOB_ID
    return store


def assert_found_and_replaced(store: RedisBlobStore, client: redis.Redis) -> None:
    """The damage is an error, the damaged blob is quarantined for a day, and a put replaces it."""
    with pytest.raises(BlobCorruptError, match=BLOB_ID):
        store.get(BLOB_ID)
    assert BLOB_ID not in store
    assert 86_000 < client.ttl(QUARANTINE) <= 86_400
    assert store.put(DATA) == BLOB_ID
    assert store.get(BLOB_ID) == DATA


def test_flipped_bit(store: RedisBlobStore, server) -> None:
    server.client.hset(KEY, "2", b"klmnopqrsu")
    assert_found_and_replaced(store, server.client)


@pytest.mark.parametrize("chunk", ["0", "3"])
def test_truncated_chunk(store: RedisBlobStore, server, chunk: str) -> None:
    server.client.hset(KEY, chunk, server.client.hget(KEY, chunk)[:-1])
    assert_found_and_replaced(store, server.client)


def test_chunk_that_grew(store: RedisBlobStore, server) -> None:
    server.client.hset(KEY, "3", b"????")
    assert_found_and_replaced(store, server.client)


@pytest.mark.parametrize("chunk", ["0", "3"])
def test_missing_chunk(store: RedisBlobStore, server, chunk: str) -> None:
    server.client.hdel(KEY, chunk)
    assert_found_and_replaced(store, server.client)


def test_swapped_chunks(store: RedisBlobStore, server) -> None:
    first, second = server.client.hmget(KEY, "0", "1")
    server.client.hset(KEY, mapping={"0": second, "1": first})
    assert_found_and_replaced(store, server.client)


def test_bytes_moved_between_chunks(store: RedisBlobStore, server) -> None:
    server.client.hset(KEY, mapping={"0": DATA[:9], "1": DATA[9:20]})
    assert_found_and_replaced(store, server.client)


def test_another_blobs_bytes(store: RedisBlobStore, server) -> None:
    other = store.put(DATA.upper())
    server.client.rename("p:blob:" + other.removeprefix("sha256:"), KEY)
    assert_found_and_replaced(store, server.client)


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"\xc1",
        msgpack.packb([1, 2]),
        msgpack.packb({"size": len(DATA)}),
        Manifest(size=0, mime="", chunk_bytes=CHUNK_BYTES).pack(),
        Manifest(size=2**60, mime="", chunk_bytes=2**59).pack(),
        Manifest(size=2**60, mime="", chunk_bytes=CHUNK_BYTES).pack(),
    ],
    ids=["empty", "not msgpack", "not a mapping", "missing fields", "size 0", "huge chunks", "too many chunks"],
)
def test_wrong_manifest(store: RedisBlobStore, server, manifest: bytes) -> None:
    server.client.hset(KEY, "manifest", manifest)
    store.pin([BLOB_ID], "job")
    assert store.usage("job") == len(DATA)
    assert_found_and_replaced(store, server.client)


def test_info_finds_an_unreadable_manifest(store: RedisBlobStore, server) -> None:
    server.client.hset(KEY, "manifest", b"?")
    with pytest.raises(BlobCorruptError, match=BLOB_ID):
        store.info(BLOB_ID)
    assert BLOB_ID not in store


def test_missing_manifest_is_a_missing_blob(store: RedisBlobStore, server) -> None:
    store.pin([BLOB_ID], "job")
    server.client.hdel(KEY, "manifest")
    assert BLOB_ID not in store
    assert store.usage("job") == 0
    with pytest.raises(BlobNotFoundError):
        store.get(BLOB_ID)
    store.put(DATA)
    assert store.get(BLOB_ID) == DATA


def test_key_of_another_type(store: RedisBlobStore, server) -> None:
    store.pin([BLOB_ID], "job")
    server.client.set(KEY, b"not a hash")
    assert store.usage("job") == 0
    with pytest.raises(BlobStoreError, match="WRONGTYPE"):
        store.get(BLOB_ID)


def test_damaged_on_the_way_to_the_server(server) -> None:
    data = b"\xfe" * 100
    with proxy(server.url, lambda passing: passing.replace(b"\xfe", b"\xff")) as url:
        store = open_blob_store(url)
        with pytest.raises(BlobCorruptError, match=r"chunk 0 of sha256:.*damaged on the way"):
            store.put(data)
        assert blob_id_of(data) not in store
        store.close()
    assert server.client.keys() == []


DYING_CLIENT = """
import os, signal, sys
import redis
from blobstore import RedisBlobStore

class DyingClient(redis.Redis):
    calls = 0
    def pipeline(self, transaction=True):
        self.calls += 1
        if self.calls == 3:  # after the beginning and 16 chunks
            os.kill(os.getpid(), signal.SIGKILL)
        return super().pipeline(transaction)

RedisBlobStore(DyingClient.from_url(sys.argv[1]), prefix="p:", chunk_bytes=200).put(bytes(5000), owner="job")
"""


def test_client_dies_within_an_upload(server) -> None:
    # When a client is killed after 16 of 25 chunks
    died = subprocess.run([sys.executable, "-c", DYING_CLIENT, server.url], check=False)
    assert died.returncode == -signal.SIGKILL
    # Then there is no blob and no pin, only chunks that expire
    store = RedisBlobStore(server.client, prefix="p:", chunk_bytes=200)
    assert blob_id_of(bytes(5000)) not in store
    assert list(store.owners()) == []
    (staging,) = server.client.keys()
    assert server.client.hlen(staging) == CHUNKS_PER_WRITE + 1
    assert 0 < server.client.ttl(staging) <= 120
    # and the next put succeeds
    assert store.get(store.put(bytes(5000))) == bytes(5000)


def test_connection_lost_within_an_upload(server) -> None:
    # Given a connection that ends after the first chunk, before the expiry is renewed
    passed = 0

    def end_after_a_chunk(passing: bytes) -> bytes:
        nonlocal passed
        passed += len(passing)
        return passing if passed < 1.5 * MIB else b""

    with proxy(server.url, end_after_a_chunk) as url:
        store = open_blob_store(url, patience_s=0)
        with pytest.raises(BlobStoreUnavailableError):
            store.put(bytes(3 * MIB))
        store.close()
    # Then the chunk expires
    wait_until(lambda: server.client.info("clients")["connected_clients"] == 1)
    (staging,) = server.client.keys()
    assert server.client.hlen(staging) == 1 + 1
    assert 0 < server.client.ttl(staging) <= 120


def test_scripts_forgotten_by_the_server(store: RedisBlobStore, server) -> None:
    server.client.script_flush()
    blob_id = store.put(b"after a restart", owner="job")
    assert store.release("job") == 1
    assert store.get(blob_id) == b"after a restart"


def test_server_full(start_server) -> None:
    # Given a server with space for a few MiB and a blob on it
    server = start_server("--maxmemory", "12mb", "--maxmemory-policy", "noeviction")
    store = open_blob_store(server.url)
    store.check()
    kept = store.put(bytes(MIB), owner="job")
    # When a blob does not fit, Then the error is typed and no part of it stays
    with pytest.raises(BlobStoreFullError, match="is full"):
        store.put(bytes(32 * MIB), owner="job")
    assert not server.client.keys("longtake:staging:*")
    assert store.pins("job") == {kept}
    # When nothing fits, Then stored blobs can be read, put again, pinned and released
    server.client.config_set("maxmemory", "1mb")
    with pytest.raises(BlobStoreFullError):
        store.put(b"tiny")
    assert store.get(kept) == bytes(MIB)
    assert store.put(bytes(MIB), owner="other") == kept
    store.pin([kept], "other")
    assert store.release("job") == 1
    assert store.pins("other") == {kept}
    # and after a drop there is space
    server.client.config_set("maxmemory", "12mb")
    store.drop(kept)
    assert store.put(bytes(2 * MIB)) in store
    store.close()


def test_damage_found_on_a_full_server(start_server) -> None:
    # Given a damaged blob on a server that has become full
    server = start_server()
    store = RedisBlobStore(server.client, prefix="p:", chunk_bytes=CHUNK_BYTES)
    store.put(DATA)
    server.client.hset(KEY, "2", b"klmnopqrsu")
    server.client.config_set("maxmemory", 1)
    # When it is put again, Then there is no space, and no pin stays
    with pytest.raises(BlobStoreFullError):
        store.put(DATA, owner="job")
    assert server.client.keys() == [QUARANTINE.encode()]


def test_server_restart(start_server) -> None:
    server = start_server()
    store = open_blob_store(server.url, patience_s=0.2)
    blob_id = store.put(b"one")
    # When the server stops, Then every error names its address
    server.stop()
    calls: list[Callable[[], object]] = [
        store.check,
        lambda: store.put(b"two"),
        lambda: store.get(blob_id),
        lambda: blob_id in store,
        lambda: list(store.owners()),
    ]
    for call in calls:
        with pytest.raises(BlobStoreUnavailableError, match=r"redis\.sock"):
            call()
    # and after its restart, empty, the same store works
    server.start()
    assert blob_id not in store
    assert store.get(store.put(b"one")) == b"one"
    store.close()
