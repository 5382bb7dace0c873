"""Blobs with manifests of other format versions."""

from __future__ import annotations

from collections.abc import Callable

import msgpack
import pytest

from blobstore import (
    BlobCorruptError,
    BlobInfo,
    BlobStoreVersionError,
    Collected,
    RedisBlobStore,
    blob_id_of,
)
from blobstore.stored_format import FORMAT

DATA = b"0123456789abcdefghijklmnopqrst???"
BLOB_ID = blob_id_of(DATA)
HEX = BLOB_ID.removeprefix("sha256:")
KEY = f"p:blob:{HEX}"


@pytest.fixture
def store(server) -> RedisBlobStore:
    store = RedisBlobStore(server.client, prefix="p:", ttl_s=1000, chunk_bytes=10)
    assert store.put(DATA, mime="text/plain") == BLOB_ID
    return store


def change_manifest(server, **changes: object) -> None:
    """Set keys of the stored manifest; None removes one."""
    fields = msgpack.unpackb(server.client.hget(KEY, "manifest")) | changes
    fields = {name: value for name, value in fields.items() if value is not None}
    server.client.hset(KEY, "manifest", msgpack.packb(fields))


def everything(server) -> dict[bytes, tuple[bytes, int]]:
    """Every key of the server, its value, and when it expires in ms."""
    client = server.client
    ends = {key: client.pttl(key) for key in client.scan_iter()}
    now_s, micros = client.time()
    now = now_s * 1000 + micros // 1000
    return {key: (client.dump(key), left if left < 0 else round(now + left, -3)) for key, left in ends.items()}


def test_the_format_is_written(store: RedisBlobStore, server) -> None:
    assert msgpack.unpackb(server.client.hget(KEY, "manifest"))["format"] == FORMAT == "0.2"


@pytest.mark.parametrize(
    "changes",
    [{"format": None}, {"extra": 1}, {"format": "0.3", "extra": 1}],
    ids=["0.1", "unknown key", "newer minor"],
)
def test_readable_versions(store: RedisBlobStore, server, changes: dict[str, object]) -> None:
    change_manifest(server, **changes)
    before = server.client.hgetall(KEY)
    # When / Then
    assert store.get(BLOB_ID) == DATA
    assert store.info(BLOB_ID) == BlobInfo(BLOB_ID, len(DATA), "text/plain")
    assert store.put(DATA, owner="job") == BLOB_ID
    store.pin([BLOB_ID], "job")
    assert store.usage("job") == len(DATA)
    assert store.collect(grace_s=0) == Collected(0, 0)
    assert server.client.hgetall(KEY) == before
    store.release("job")
    assert store.collect(grace_s=0) == Collected(1, len(DATA))


@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.get(BLOB_ID),
        lambda store: store.info(BLOB_ID),
        lambda store: store.put(DATA),
        lambda store: store.put(DATA, owner="job"),
        lambda store: store.drop(BLOB_ID),
    ],
    ids=["get", "info", "put", "put for an owner", "drop"],
)
@pytest.mark.parametrize("others", [{}, {"size": None, "upload": 7}], ids=["same keys", "other keys"])
def test_a_newer_major_version_is_refused_and_unchanged(
    store: RedisBlobStore, server, call: Callable[[RedisBlobStore], object], others: dict[str, object]
) -> None:
    change_manifest(server, format="1.0", **others)
    before = everything(server)
    with pytest.raises(BlobStoreVersionError) as caught:
        call(store)
    assert str(caught.value) == f"blob {BLOB_ID}: written by a newer longtake; upgrade this worker"
    assert everything(server) == before


def test_a_newer_major_version_is_not_collected(store: RedisBlobStore, server) -> None:
    # Given a newer blob without a pin, with and without an expiry
    change_manifest(server, format="1.0")
    for persist in (False, True):
        if persist:
            server.client.persist(KEY)
        before = everything(server)
        # When / Then
        assert store.collect(grace_s=0, dry_run=True) == Collected(0, 0)
        assert store.collect(grace_s=0) == Collected(0, 0)
        assert everything(server) == before


def test_a_newer_major_version_can_be_pinned_and_counts(store: RedisBlobStore, server) -> None:
    # Given a newer blob
    change_manifest(server, format="1.0")
    before = server.client.hgetall(KEY)
    # When it is pinned, Then it stays until its release, unchanged
    store.pin([BLOB_ID], "job")
    assert BLOB_ID in store
    assert store.pins("job") == {BLOB_ID}
    assert store.usage("job") == len(DATA)
    assert server.client.ttl(KEY) == -1
    assert store.release("job") == 1
    assert 900 < server.client.ttl(KEY) <= 1000
    assert server.client.hgetall(KEY) == before


@pytest.mark.parametrize("version", ["", "1", "1.0.0", "v1.0", b"1.0", 1.5, 2, ["1.0"]], ids=repr)
def test_a_malformed_version_is_damage(store: RedisBlobStore, server, version: object) -> None:
    change_manifest(server, format=version)
    with pytest.raises(BlobCorruptError, match=BLOB_ID):
        store.get(BLOB_ID)
    assert server.client.exists(f"p:quarantine:{HEX}")
    # and a put replaces it, also before any read
    assert store.put(DATA) == BLOB_ID
    change_manifest(server, format=version)
    store.put(DATA)
    assert store.get(BLOB_ID) == DATA


@pytest.mark.parametrize("version", ["", "1", "1.0.0", "v1.0", 1.5, 2, ["1.0"]], ids=repr)
def test_a_malformed_version_can_be_dropped_and_collected(store: RedisBlobStore, server, version: object) -> None:
    change_manifest(server, format=version)
    assert store.collect(grace_s=0) == Collected(1, len(DATA))
    store.put(DATA)
    change_manifest(server, format=version)
    store.drop(BLOB_ID)
    assert server.client.keys() == []
