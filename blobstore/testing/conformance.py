"""The conformance suite for blob stores. Subclass it to test your own store.

    class TestMyStore(BlobStoreConformance):
        @pytest.fixture
        def store(self): ...          # an empty store, ttl_s and pin_lease_s an hour or more
        @pytest.fixture
        def short_lived(self): ...    # an empty store, ttl_s and pin_lease_s both SHORT_S
        def corrupt(self, store, blob_id): ...   # damage a stored blob

For a store with limited space, also subclass `FullStoreConformance`. For readable failures call
`pytest.register_assert_rewrite("blobstore.testing.conformance", "blobstore.testing.lifetimes")` in a conftest.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import cast

from blobstore.protocol import BlobCorruptError, BlobInfo, BlobNotFoundError, ManagedBlobStore, blob_id_of, is_blob_id
from blobstore.testing.lifetimes import MIB, SHORT_S, SMALL_BYTES, FullStoreConformance, LifetimeConformance, raises

__all__ = ["SHORT_S", "SMALL_BYTES", "BlobStoreConformance", "FullStoreConformance"]

MISSING = blob_id_of(b"never stored")
MALFORMED = [
    "",
    "sha256:",
    "a0b1c2d3e4f5061728394a5b6c7d8e9f",
    blob_id_of(b"one").removeprefix("sha256:"),
    blob_id_of(b"one").upper(),
    blob_id_of(b"one") + "\n",
    "sha256:" + "*" * 64,
]


class BlobStoreConformance(LifetimeConformance):
    """All tests of a `ManagedBlobStore`; the module's docstring shows how to use it."""

    def test_get_returns_the_bytes_that_were_put(self, store: ManagedBlobStore) -> None:
        for size in (0, 1, 1000, MIB - 1, MIB, MIB + 1, 5 * MIB):
            data = (bytes(range(256)) * (size // 256 + 1))[:size]
            blob_id = store.put(data)
            assert blob_id == blob_id_of(data)
            assert blob_id in store
            assert store.get(blob_id) == data

    def test_put_copies_buffers(self, store: ManagedBlobStore) -> None:
        # Given bytes in a mutable buffer
        buffer = bytearray(b"before")
        blob_id = store.put(memoryview(buffer))
        assert store.put(buffer) == blob_id
        # When the caller changes the buffer
        buffer[:] = b"behind"
        # Then the blob does not change
        assert store.get(blob_id) == b"before"
        assert type(store.get(blob_id)) is bytes

    def test_text_is_rejected(self, store: ManagedBlobStore) -> None:
        with raises(TypeError):
            store.put(cast("bytes", "text"))

    def test_later_puts_keep_the_mime_type(self, store: ManagedBlobStore) -> None:
        blob_id = store.put(b"pixels", mime="image/png")
        assert store.put(b"pixels", mime="text/plain") == blob_id
        assert store.info(blob_id) == BlobInfo(blob_id, 6, "image/png")

    def test_default_mime_type(self, store: ManagedBlobStore) -> None:
        assert store.info(store.put(b"")) == BlobInfo(blob_id_of(b""), 0, "application/octet-stream")

    def test_a_missing_blob_is_a_key_error(self, store: ManagedBlobStore) -> None:
        assert MISSING not in store
        for read in (store.get, store.info):
            with raises(BlobNotFoundError, MISSING):
                read(MISSING)
            with raises(KeyError):
                read(MISSING)
        store.drop(MISSING)

    def test_malformed_ids_are_missing(self, store: ManagedBlobStore) -> None:
        store.put(b"one")
        for blob_id in MALFORMED:
            assert not is_blob_id(blob_id)
            assert blob_id not in store
            store.drop(blob_id)
            with raises(BlobNotFoundError):
                store.get(blob_id)
            with raises(BlobNotFoundError):
                store.pin([blob_id], "job")
        things: list[object] = [None, 7, b"one", ["one"], {}]
        for thing in things:
            assert thing not in store

    def test_a_dropped_blob_can_be_put_again(self, store: ManagedBlobStore) -> None:
        blob_id = store.put(b"one", mime="text/plain")
        store.drop(blob_id)
        assert blob_id not in store
        with raises(BlobNotFoundError):
            store.get(blob_id)
        store.put(b"one", mime="image/png")
        assert store.info(blob_id).mime == "image/png"

    def test_corrupt_bytes_are_never_returned(self, store: ManagedBlobStore) -> None:
        # Given a pinned blob whose bytes changed
        blob_id = store.put(b"right bytes", owner="job")
        store.pin([blob_id], "job")
        self.corrupt(store, blob_id)
        # When it is read, Then the first read is an error, and after it the blob is missing
        with raises(BlobCorruptError, blob_id):
            store.get(blob_id)
        assert blob_id not in store
        with raises(BlobNotFoundError):
            store.get(blob_id)
        # and the right bytes can be put again; the pin still holds
        assert store.put(b"right bytes") == blob_id
        assert store.get(blob_id) == b"right bytes"
        assert store.pins("job") == {blob_id}

    def test_a_put_replaces_corrupt_bytes(self, store: ManagedBlobStore) -> None:
        # Given a blob whose bytes changed, not read since
        blob_id = store.put(b"right bytes")
        self.corrupt(store, blob_id)
        # When / Then
        assert store.put(b"right bytes", owner="job") == blob_id
        assert store.get(blob_id) == b"right bytes"
        assert store.pins("job") == {blob_id}

    def test_a_put_with_an_owner_pins(self, store: ManagedBlobStore) -> None:
        new, known = store.put(b"new", owner="job"), store.put(b"known")
        assert store.put(b"known", owner="job") == known
        assert store.pins("job") == {new, known}
        assert list(store.owners()) == ["job"]

    def test_pin_commits_all_or_none(self, store: ManagedBlobStore) -> None:
        stored = store.put(b"stored")
        other = blob_id_of(b"also never stored")
        with raises(BlobNotFoundError, MISSING, other):
            store.pin([MISSING, stored, other], "job")
        assert store.pins("job") == set()
        assert list(store.owners()) == []

    def test_pinning_nothing_or_twice(self, store: ManagedBlobStore) -> None:
        store.pin([], "idle")
        blob_id = store.put(b"one")
        store.pin(iter([blob_id, blob_id]), "job")
        store.pin([blob_id], "job")
        assert list(store.owners()) == ["job"]
        assert store.release("job") == 1

    def test_release_removes_and_counts_pins(self, store: ManagedBlobStore) -> None:
        # Given two owners that share a blob
        shared, other = store.put(b"shared"), store.put(b"other", owner="first")
        store.pin([shared], "first")
        store.pin([shared], "second")
        # When one is released, Then the pin of the second stays, and no blob is lost at once
        assert store.release("first") == 2
        assert store.release("first") == 0
        assert store.pins("first") == set()
        assert store.pins("second") == {shared}
        assert list(store.owners()) == ["second"]
        assert shared in store
        assert other in store

    def test_any_text_can_name_an_owner(self, store: ManagedBlobStore) -> None:
        names = {"", "a:b", "*", "[a]?", "back\\slash", "häfen", "line\nbreak", "owner:job"}
        blob_id = store.put(b"one")
        for name in names:
            store.pin([blob_id], name)
        assert sorted(store.owners()) == sorted(names)
        for name in names:
            assert store.release(name) == 1
        assert list(store.owners()) == []

    def test_a_dropped_blob_keeps_its_pins(self, store: ManagedBlobStore) -> None:
        blob_id = store.put(b"one")
        store.pin([blob_id], "job")
        store.drop(blob_id)
        assert blob_id not in store
        assert store.pins("job") == {blob_id}
        assert store.release("job") == 1

    def test_usage_is_the_bytes_that_an_owner_pins(self, store: ManagedBlobStore) -> None:
        # Given two owners that share a blob, pinned provisionally or committed, and an unpinned blob
        assert store.usage("job") == 0
        large, shared = store.put(bytes(2 * MIB + 5), owner="job"), store.put(b"shared", owner="other")
        store.pin([shared], "job")
        store.put(b"unpinned")
        store.put(b"", owner="job")
        # Then each blob counts for all its owners while it is stored
        assert store.usage("job") == 2 * MIB + 11
        assert store.usage("other") == 6
        store.drop(large)
        assert store.usage("job") == 6
        store.put(bytes(2 * MIB + 5))
        assert store.usage("job") == 2 * MIB + 11
        store.release("job")
        assert store.usage("job") == 0
        assert store.usage("other") == 6

    def test_an_owners_view_pins_its_puts(self, store: ManagedBlobStore) -> None:
        before = store.put(b"before")
        view = store.owned_by("job")
        blob_id = view.put(b"one", mime="text/plain")
        assert view.get(blob_id) == store.get(blob_id) == b"one"
        assert store.info(blob_id).mime == "text/plain"
        assert before in view
        assert store.pins("job") == {blob_id}
        view.drop(blob_id)
        assert blob_id not in view
        assert blob_id not in store

    def test_threads_can_put_the_same_bytes(self, store: ManagedBlobStore) -> None:
        data = b"frames" * (MIB // 3)
        with ThreadPoolExecutor(8) as pool:
            ids = set(pool.map(lambda n: store.put(data, owner=f"job{n}"), range(8)))
        assert ids == {blob_id_of(data)}
        assert store.get(blob_id_of(data)) == data
        assert len(list(store.owners())) == 8

    def test_check_passes(self, store: ManagedBlobStore) -> None:
        store.check()
        store.close()
