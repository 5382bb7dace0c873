from __future__ import annotations

import pytest

from blobstore import BlobStore, BlobStoreFullError, InMemoryBlobStore


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_full_store_stores_nothing() -> None:
    # Given space for 10 bytes, 6 of them used
    store = InMemoryBlobStore(max_bytes=10)
    first = store.put(b"123456", owner="job")
    # When 5 more are put, Then they do not fit
    with pytest.raises(BlobStoreFullError, match="5 bytes do not fit: 6 of 10"):
        store.put(b"abcde", owner="late")
    assert list(store.owners()) == ["job"]
    # and stored or smaller blobs do, also after a drop
    store.put(b"123456")
    store.put(b"abcd")
    store.drop(first)
    assert store.put(b"fghij") in store


def test_expired_blobs_free_space(clock: Clock) -> None:
    store = InMemoryBlobStore(max_bytes=4, ttl_s=10, clock=clock)
    store.put(b"1234")
    clock.now = 10
    store.put(b"abcd")


def test_every_put_renews_an_unpinned_blob(clock: Clock) -> None:
    store = InMemoryBlobStore(ttl_s=10, clock=clock)
    blob_id = store.put(b"one")
    clock.now = 9
    store.put(b"one")
    clock.now = 18
    assert blob_id in store
    clock.now = 19
    assert blob_id not in store


@pytest.mark.parametrize(("ttl_s", "pin_lease_s"), [(10, 20), (20, 10)])
def test_a_provisional_pin_never_shortens_a_lifetime(clock: Clock, ttl_s: float, pin_lease_s: float) -> None:
    store = InMemoryBlobStore(ttl_s=ttl_s, pin_lease_s=pin_lease_s, clock=clock)
    blob_id = store.put(b"one", owner="job")
    clock.now = 19
    assert blob_id in store
    clock.now = 20
    assert blob_id not in store


def test_the_ttl_starts_at_the_last_release(clock: Clock) -> None:
    store = InMemoryBlobStore(ttl_s=10, pin_lease_s=10, clock=clock)
    blob_id = store.put(b"one")
    store.pin([blob_id], "first")
    store.pin([blob_id], "second")
    clock.now = 100
    store.release("first")
    clock.now = 200
    assert blob_id in store
    store.release("second")
    clock.now = 209
    assert blob_id in store
    clock.now = 210
    assert blob_id not in store


def test_a_store_in_memory_has_a_length_and_is_a_blob_store() -> None:
    store = InMemoryBlobStore()
    assert len(store) == 0
    assert store
    store.put(b"a")
    assert len(store) == 1
    assert isinstance(store, BlobStore)
    assert not isinstance({}, BlobStore)
