"""Conformance tests of expiry, collecting and full stores; see `blobstore.testing.conformance`."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from blobstore.protocol import (
    BlobCorruptError,
    BlobNotFoundError,
    BlobStoreConfigError,
    BlobStoreFullError,
    Collected,
    ManagedBlobStore,
    blob_id_of,
)

SHORT_S = 3.0  # of which 0.9 may pass between two commands of a test, on a busy machine
MIB = 1024 * 1024
SMALL_BYTES = 8 * MIB


@contextmanager
def raises(kind: type[Exception], *words: str) -> Iterator[None]:
    """Expect an error of this type whose message contains all these words."""
    message = None
    try:
        yield
    except kind as error:
        message = str(error)
    assert message is not None, f"no {kind.__name__} was raised"
    assert all(word in message for word in words), f"{message!r} lacks one of {words}"


class LifetimeConformance:
    """The tests of expiry and collecting in `BlobStoreConformance`."""

    def corrupt(self, store: Any, blob_id: str) -> None:
        """Change at least one stored byte of a blob and nothing else."""
        raise NotImplementedError

    def pass_time(self, store: Any, seconds: float) -> None:
        """Let time pass for the store. Override it for a store with a clock that can be set."""
        time.sleep(seconds)

    def test_an_unpinned_blob_expires(self, short_lived: ManagedBlobStore) -> None:
        blob_id = short_lived.put(b"one")
        self.pass_time(short_lived, SHORT_S * 1.5)
        assert blob_id not in short_lived
        with raises(BlobNotFoundError):
            short_lived.get(blob_id)

    def test_a_second_put_renews_a_blob(self, short_lived: ManagedBlobStore) -> None:
        blob_id = short_lived.put(b"one")
        self.pass_time(short_lived, SHORT_S * 0.7)
        short_lived.put(b"one")
        self.pass_time(short_lived, SHORT_S * 0.7)
        assert blob_id in short_lived
        self.pass_time(short_lived, SHORT_S * 0.7)
        assert blob_id not in short_lived

    def test_a_provisional_pin_expires(self, short_lived: ManagedBlobStore) -> None:
        blob_id = short_lived.put(b"one", owner="crashed")
        self.pass_time(short_lived, SHORT_S * 1.5)
        assert blob_id not in short_lived
        assert short_lived.pins("crashed") == set()
        assert short_lived.usage("crashed") == 0
        assert list(short_lived.owners()) == []
        assert short_lived.release("crashed") == 0

    def test_a_second_provisional_pin_renews_the_first(self, short_lived: ManagedBlobStore) -> None:
        blob_id = short_lived.put(b"one", owner="job")
        self.pass_time(short_lived, SHORT_S * 0.7)
        short_lived.put(b"one", owner="job")
        self.pass_time(short_lived, SHORT_S * 0.7)
        assert short_lived.pins("job") == {blob_id}
        assert short_lived.get(blob_id) == b"one"
        self.pass_time(short_lived, SHORT_S * 0.7)
        assert short_lived.pins("job") == set()
        assert blob_id not in short_lived

    def test_a_committed_pin_holds_until_its_release(self, short_lived: ManagedBlobStore) -> None:
        # Given a committed pin, and later provisional ones of the same owner
        blob_id = short_lived.put(b"one", owner="job")
        short_lived.pin([blob_id], "job")
        short_lived.put(b"one", owner="job")
        late = short_lived.put(b"never committed", owner="job")
        untouched = short_lived.put(b"two")
        short_lived.pin([untouched], "job")
        # When provisional pins and unpinned blobs have expired, Then the committed blobs are still stored
        self.pass_time(short_lived, SHORT_S * 1.5)
        assert short_lived.get(blob_id) == b"one"
        assert short_lived.get(untouched) == b"two"
        assert short_lived.pins("job") == {blob_id, untouched}
        assert short_lived.usage("job") == 6
        assert late not in short_lived
        # and after the release they expire like other blobs
        assert short_lived.release("job") == 2
        self.pass_time(short_lived, SHORT_S * 0.7)
        assert blob_id in short_lived
        self.pass_time(short_lived, SHORT_S * 0.7)
        assert blob_id not in short_lived
        assert untouched not in short_lived

    def test_stored_blobs_are_pinned_provisionally(self, short_lived: ManagedBlobStore) -> None:
        # Given blobs that are pinned provisionally, one of which its owner commits before or afterwards
        blob_ids = [short_lived.put(data) for data in (b"one", b"two", b"three")]
        short_lived.pin(blob_ids[1:2], "job")
        short_lived.pin(blob_ids, "job", provisional=True)
        short_lived.pin(blob_ids[2:], "job")
        self.pass_time(short_lived, SHORT_S * 0.7)
        assert short_lived.pins("job") == set(blob_ids)
        # When that time is over, Then the committed ones are left
        self.pass_time(short_lived, SHORT_S * 0.8)
        assert short_lived.pins("job") == set(blob_ids[1:])
        assert [blob_id in short_lived for blob_id in blob_ids] == [False, True, True]
        with raises(BlobNotFoundError):
            short_lived.pin(blob_ids, "other", provisional=True)
        assert short_lived.pins("other") == set()

    def test_unpinned_blobs_are_collected(self, store: ManagedBlobStore) -> None:
        # Given unpinned and pinned blobs
        unpinned = [store.put(data) for data in (b"", b"loose", bytes(MIB + 1))]
        unpinned.append(store.put(b"released", owner="done"))
        store.release("done")
        pinned = [store.put(b"provisional", owner="job"), store.put(b"committed")]
        store.pin(pinned[1:], "job")
        # When they are collected, Then the result is that of a dry run, which freed nothing
        expected = Collected(blobs=4, bytes=5 + MIB + 1 + 8)
        assert store.collect(grace_s=0, dry_run=True) == expected
        assert all(blob_id in store for blob_id in unpinned)
        assert store.collect(grace_s=0) == expected
        assert not any(blob_id in store for blob_id in unpinned)
        assert [store.get(blob_id) for blob_id in pinned] == [b"provisional", b"committed"]
        assert store.pins("job") == set(pinned)
        # and nothing more is collected until blobs are put or released
        assert store.collect(grace_s=0) == Collected(blobs=0, bytes=0)
        assert store.get(store.put(b"loose")) == b"loose"
        store.release("job")
        assert store.collect(grace_s=0) == Collected(blobs=3, bytes=5 + 11 + 9)

    def test_recently_renewed_blobs_are_not_collected(self, short_lived: ManagedBlobStore) -> None:
        # Given two old blobs, one of them put again now, and two that were put or released now
        old, renewed = short_lived.put(b"old"), short_lived.put(b"renewed")
        released = short_lived.put(b"released", owner="job")
        self.pass_time(short_lived, SHORT_S * 0.6)
        fresh = short_lived.put(b"fresh")
        short_lived.put(b"renewed")
        short_lived.release("job")
        # When blobs older than half a lifetime are collected, Then only the old one is freed
        assert short_lived.collect(grace_s=SHORT_S / 2) == Collected(blobs=1, bytes=3)
        assert old not in short_lived
        assert all(blob_id in short_lived for blob_id in (renewed, released, fresh))
        # and the others when they are as old
        self.pass_time(short_lived, SHORT_S * 0.6)
        assert short_lived.collect(grace_s=SHORT_S / 2) == Collected(blobs=3, bytes=7 + 8 + 5)

    def test_quarantined_blobs_are_collected_once(self, store: ManagedBlobStore) -> None:
        # Given a pinned blob that was found corrupt
        blob_id = store.put(b"right bytes", owner="job")
        self.corrupt(store, blob_id)
        with raises(BlobCorruptError):
            store.get(blob_id)
        # When it is collected, Then a store with a quarantine frees it, its pin stays, and it can be put again
        expected = store.collect(grace_s=0, dry_run=True)
        assert expected in (Collected(0, 0), Collected(0, 0, quarantined=1, quarantined_bytes=11))
        assert store.collect(grace_s=0) == expected
        assert store.collect(grace_s=0) == Collected(0, 0)
        assert store.pins("job") == {blob_id}
        store.put(b"right bytes")
        assert store.collect(grace_s=0) == Collected(0, 0)
        assert store.get(blob_id) == b"right bytes"

    def test_an_invalid_grace_period_is_rejected(self, short_lived: ManagedBlobStore) -> None:
        for grace_s in (-0.1, SHORT_S * 1.1, math.inf, math.nan):
            with raises(BlobStoreConfigError, "grace_s", str(grace_s)):
                short_lived.collect(grace_s=grace_s)
        assert short_lived.collect(grace_s=SHORT_S) == Collected(0, 0)

    def test_an_owners_blobs_survive_concurrent_collecting(self, store: ManagedBlobStore) -> None:
        # Given a thread that collects all the time
        data = b"frames" * (MIB // 6)
        finished = threading.Event()

        def collect() -> int:
            freed = 0
            while not finished.is_set():
                freed += store.collect(grace_s=0).blobs
            return freed

        def put_and_release(owner: str) -> None:
            for number in range(80):
                blob_id = store.put(data, owner=owner)
                assert blob_id in store
                assert store.get(blob_id) == data
                store.release(owner)
                deadline = time.monotonic() + 10
                while number % 2 == 0 and blob_id in store:
                    assert time.monotonic() < deadline, "an unpinned blob was not collected"

        with ThreadPoolExecutor(4) as pool:
            collecting = pool.submit(collect)
            try:
                # When several threads put and release the same bytes, sometimes just after a collection
                list(pool.map(put_and_release, ("one", "two", "three")))
            finally:
                finished.set()
        # Then each could read them until it released them
        assert collecting.result() >= 40


class FullStoreConformance:
    """Tests of stores with limited space, in addition to `BlobStoreConformance`. They need a fixture.

    small: an empty store with space for about SMALL_BYTES, ttl_s and pin_lease_s an hour or more.
    """

    def test_a_blob_that_does_not_fit_leaves_nothing(self, small: ManagedBlobStore) -> None:
        kept = small.put(self.eighth(0), owner="job")
        # When a blob does not fit, Then the error is typed, and there is no blob and no pin
        big = bytes(2 * SMALL_BYTES)
        with raises(BlobStoreFullError):
            small.put(big, owner="late")
        assert blob_id_of(big) not in small
        assert list(small.owners()) == ["job"]
        assert small.get(kept) == self.eighth(0)
        # and no space is lost
        half = bytes(SMALL_BYTES // 2)
        assert small.get(small.put(half)) == half

    def test_a_full_store_can_be_read_and_freed(self, small: ManagedBlobStore) -> None:
        # Given a store full of the blobs of one job
        ids: list[str] = []
        with raises(BlobStoreFullError):
            for number in range(16):
                ids.append(small.put(self.eighth(number), owner="job"))
        assert len(ids) > 2
        # Then all of them can be read, put again and pinned
        for number, blob_id in enumerate(ids):
            assert small.get(blob_id) == self.eighth(number)
        assert small.put(self.eighth(0), owner="other") == ids[0]
        small.pin(ids, "job")
        assert small.pins("job") == set(ids)
        # When two are dropped, Then there is space for one that did not fit
        small.drop(ids[0])
        small.drop(ids[1])
        assert small.get(small.put(self.eighth(16))) == self.eighth(16)
        # When unpinned blobs are collected, Then there is space for many
        small.release("job")
        small.release("other")
        assert small.collect(grace_s=0) == Collected(len(ids) - 1, (len(ids) - 1) * SMALL_BYTES // 8)
        half = bytes(SMALL_BYTES // 2)
        assert small.get(small.put(half)) == half

    def eighth(self, number: int) -> bytes:
        """Bytes that fill an eighth of a small store and differ by number."""
        return number.to_bytes(8, "big") * (SMALL_BYTES // 64)
