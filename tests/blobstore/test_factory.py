from __future__ import annotations

import pytest

from blobstore import (
    BlobStoreConfigError,
    BlobStoreUnavailableError,
    InMemoryBlobStore,
    RedisBlobStore,
    open_blob_store,
)


def test_each_memory_url_is_a_new_store() -> None:
    one, other = open_blob_store("memory:"), open_blob_store("memory:")
    assert isinstance(one, InMemoryBlobStore)
    assert one.put(b"one") not in other


@pytest.mark.parametrize(
    "url", ["redis://host", "redis://user:p%2Fw@host:7000/3", "rediss://host", "unix:///run/redis.sock?db=2"]
)
def test_redis_urls_are_opened_without_a_connection(url: str) -> None:
    store = open_blob_store(url)
    assert isinstance(store, RedisBlobStore)
    store.close()


@pytest.mark.parametrize(
    "url", ["", "memory", "memory://", "redis", "redis:host", "http://:s3cret@host/", "/run/redis.sock", "s3cret://"]
)
def test_other_urls_are_rejected(url: str) -> None:
    with pytest.raises(BlobStoreConfigError, match=r"redis://.*rediss://.*unix://.*memory:") as caught:
        open_blob_store(url)
    assert ":s3cret@" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:s3cret@host:port/0",
        "redis://:s3c/ret@host",
        "redis://:s3cret@host?unknown=1",
        "redis://:s3cret@host?socket_timeout=soon",
        "redis://:s3cret@host?decode_responses=true",
    ],
)
def test_errors_of_malformed_urls_hide_the_password(url: str) -> None:
    with pytest.raises(BlobStoreConfigError) as caught:
        open_blob_store(url)
    assert "s3c" not in str(caught.value)


def test_errors_of_unreachable_servers_hide_the_password() -> None:
    store = open_blob_store("redis://user:s3cret@127.0.0.1:1/0")
    with pytest.raises(BlobStoreUnavailableError, match=r"127\.0\.0\.1:1") as caught:
        store.check()
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in repr(caught.value.__cause__)


def test_the_settings_are_applied(server) -> None:
    store = open_blob_store(server.url, prefix="mine:", ttl_s=100, pin_lease_s=50)
    blob_id = store.put(b"one", owner="job")
    store.close()
    hexes = blob_id.removeprefix("sha256:")
    assert sorted(server.client.keys()) == [
        f"mine:{key}".encode() for key in (f"blob:{hexes}", "owner:job", f"pins:{hexes}")
    ]
    assert 90 < server.client.ttl(f"mine:blob:{hexes}") <= 100
    assert 40 < server.client.ttl(f"mine:pins:{hexes}") <= 50
