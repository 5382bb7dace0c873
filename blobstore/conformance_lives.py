"""How long blobs and pins live in a blob store, and what a full one does; see `blobstore.conformance`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from blobstore.base import BlobNotFoundError, BlobStoreFullError, ManagedBlobStore, blob_id_of

SHORT_S = 1.0
MIB = 1024 * 1024
SMALL_BYTES = 8 * MIB


@contextmanager
def raises(kind: type[Exception], *words: str) -> Iterator[None]:
    """Expect an error of this kind whose message has all these words."""
    message = None
    try:
        yield
    except kind as error:
        message = str(error)
    assert message is not None, f"no {kind.__name__} was raised"
    assert all(word in message for word in words), f"{message!r} lacks one of {words}"


class LivesConformance:
    """A part of `BlobStoreConformance`."""

    def pass_time(self, store: Any, seconds: float) -> None:
        """Let time pass for the store; one with a clock of its own may be quicker."""
        time.sleep(seconds)

    def test_an_unpinned_blob_expires(self, short_lived: ManagedBlobStore) -> None:
        blob_id = short_lived.put(b"one")
        self.pass_time(short_lived, SHORT_S * 1.5)
        assert blob_id not in short_lived
        with raises(BlobNotFoundError):
            short_lived.get(blob_id)

    def test_a_second_put_renews(self, short_lived: ManagedBlobStore) -> None:
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

    def test_a_second_provisional_pin_renews(self, short_lived: ManagedBlobStore) -> None:
        blob_id = short_lived.put(b"one", owner="job")
        self.pass_time(short_lived, SHORT_S * 0.7)
        short_lived.put(b"one", owner="job")
        self.pass_time(short_lived, SHORT_S * 0.7)
        assert short_lived.pins("job") == {blob_id}
        assert short_lived.get(blob_id) == b"one"
        self.pass_time(short_lived, SHORT_S * 0.7)
        assert short_lived.pins("job") == set()
        assert blob_id not in short_lived

    def test_a_committed_pin_lasts_until_it_is_released(self, short_lived: ManagedBlobStore) -> None:
        # Given a committed pin, and provisional ones of the same owner after it
        blob_id = short_lived.put(b"one", owner="job")
        short_lived.pin([blob_id], "job")
        short_lived.put(b"one", owner="job")
        late = short_lived.put(b"never committed", owner="job")
        untouched = short_lived.put(b"two")
        short_lived.pin([untouched], "job")
        # When the time of provisional pins and unpinned blobs is over, Then the blob is still there
        self.pass_time(short_lived, SHORT_S * 1.5)
        assert short_lived.get(blob_id) == b"one"
        assert short_lived.get(untouched) == b"two"
        assert short_lived.pins("job") == {blob_id, untouched}
        assert short_lived.usage("job") == 6
        assert late not in short_lived
        # and after the release it expires like any other
        assert short_lived.release("job") == 2
        self.pass_time(short_lived, SHORT_S * 0.7)
        assert blob_id in short_lived
        self.pass_time(short_lived, SHORT_S * 0.7)
        assert blob_id not in short_lived
        assert untouched not in short_lived


class FullStoreConformance:
    """For stores that can be full, beside `BlobStoreConformance`: subclass it and give it a fixture.

    small: an empty store with room for about SMALL_BYTES, ttl_s and pin_lease_s an hour or more.
    """

    def test_nothing_is_kept_of_what_does_not_fit(self, small: ManagedBlobStore) -> None:
        kept = small.put(self.eighth(0), owner="job")
        # When more is put than a store can have, Then that is a typed error, and no blob and no pin
        big = bytes(2 * SMALL_BYTES)
        with raises(BlobStoreFullError):
            small.put(big, owner="late")
        assert blob_id_of(big) not in small
        assert list(small.owners()) == ["job"]
        assert small.get(kept) == self.eighth(0)
        # and no room is lost
        half = bytes(SMALL_BYTES // 2)
        assert small.get(small.put(half)) == half

    def test_a_full_store_is_readable_and_can_be_freed(self, small: ManagedBlobStore) -> None:
        # Given a store that is full of a job's blobs
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
        # When two are dropped, Then there is room for one that did not fit
        small.drop(ids[0])
        small.drop(ids[1])
        assert small.get(small.put(self.eighth(16))) == self.eighth(16)

    def eighth(self, number: int) -> bytes:
        """An eighth of a small store in bytes that differ by number."""
        return number.to_bytes(8, "big") * (SMALL_BYTES // 64)
