"""A blob store in the memory of this process, for tests and for work within one process."""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from blobstore.protocol import (
    DEFAULT_MIME,
    DEFAULT_PIN_LEASE_S,
    DEFAULT_TTL_S,
    BlobCorruptError,
    BlobInfo,
    BlobStore,
    BlobStoreFullError,
    Collected,
    Data,
    OwnedBlobStore,
    blob_id_of,
    check_grace,
    is_blob_id,
    not_found,
)


@dataclass(slots=True)
class _Blob:
    data: bytes
    mime: str
    renewed: float


class InMemoryBlobStore:
    """A `ManagedBlobStore` for the threads of one process.

    max_bytes: limit for the bytes of all blobs, None for no limit. clock: seconds that never decrease.
    """

    def __init__(
        self,
        *,
        max_bytes: int | None = None,
        ttl_s: float = DEFAULT_TTL_S,
        pin_lease_s: float = DEFAULT_PIN_LEASE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._pin_lease_s = pin_lease_s
        self._clock = clock
        self._lock = threading.Lock()
        self._blobs: dict[str, _Blob] = {}
        # owner -> blob id -> when the pin expires
        self._pins: defaultdict[str, dict[str, float]] = defaultdict(dict)

    def put(self, data: Data, *, mime: str = DEFAULT_MIME, owner: str | None = None) -> str:
        """See `ManagedBlobStore.put`."""
        blob_id = blob_id_of(data)
        with self._lock:
            self._expire()
            known = self._blobs.get(blob_id)
            if known is None or blob_id_of(known.data) != blob_id:
                self._blobs.pop(blob_id, None)
                self._reserve(memoryview(data).nbytes)
                self._blobs[blob_id] = _Blob(bytes(data), mime, 0)
            now = self._clock()
            if owner is not None:
                pins = self._pins[owner]
                pins[blob_id] = max(now + self._pin_lease_s, pins.get(blob_id, 0))
            self._blobs[blob_id].renewed = now
            return blob_id

    def get(self, blob_id: str) -> bytes:
        """See `BlobStore.get`."""
        blob = self._find(blob_id)
        if blob_id_of(blob.data) == blob_id:
            return blob.data
        with self._lock:
            if self._blobs.get(blob_id) is blob:
                del self._blobs[blob_id]
        raise BlobCorruptError(f"{blob_id} is damaged in the store; put it again")

    def drop(self, blob_id: str) -> None:
        """See `BlobStore.drop`."""
        with self._lock:
            self._blobs.pop(blob_id, None)

    def __contains__(self, blob_id: object) -> bool:
        with self._lock:
            self._expire()
            return is_blob_id(blob_id) and blob_id in self._blobs

    def pin(self, blob_ids: Iterable[str], owner: str, *, provisional: bool = False) -> None:
        """See `ManagedBlobStore.pin`."""
        wanted = list(blob_ids)
        with self._lock:
            self._expire()
            if absent := [blob_id for blob_id in wanted if blob_id not in self._blobs]:
                raise not_found(absent)
            pins, now = self._pins[owner], self._clock()
            for blob_id in wanted:
                pins[blob_id] = max(now + self._pin_lease_s if provisional else math.inf, pins.get(blob_id, 0))
                if provisional:
                    self._blobs[blob_id].renewed = now

    def release(self, owner: str) -> int:
        """See `ManagedBlobStore.release`."""
        with self._lock:
            self._expire()
            released = self._pins.pop(owner, {})
            for blob_id in released:
                if blob := self._blobs.get(blob_id):
                    blob.renewed = self._clock()
            return len(released)

    def __len__(self) -> int:
        """The number of stored blobs."""
        with self._lock:
            self._expire()
            return len(self._blobs)

    def __bool__(self) -> bool:
        """A store is a store, also when it is empty."""
        return True

    def owners(self) -> Iterator[str]:
        """See `ManagedBlobStore.owners`."""
        with self._lock:
            self._expire()
            return iter([owner for owner, pins in self._pins.items() if pins])

    def pins(self, owner: str) -> set[str]:
        """See `ManagedBlobStore.pins`."""
        with self._lock:
            self._expire()
            return set(self._pins.get(owner, ()))

    def usage(self, owner: str) -> int:
        """See `ManagedBlobStore.usage`."""
        with self._lock:
            self._expire()
            return sum(len(self._blobs[key].data) for key in self._pins.get(owner, ()) if key in self._blobs)

    def collect(self, *, grace_s: float, dry_run: bool = False) -> Collected:
        """See `ManagedBlobStore.collect`. This store quarantines nothing."""
        check_grace(grace_s, self._ttl_s)
        with self._lock:
            self._expire()
            freed = self._unpinned(grace_s)
            if not dry_run:
                for blob_id in freed:
                    del self._blobs[blob_id]
        return Collected(len(freed), sum(freed.values()))

    def info(self, blob_id: str) -> BlobInfo:
        """See `ManagedBlobStore.info`."""
        blob = self._find(blob_id)
        return BlobInfo(blob_id, len(blob.data), blob.mime)

    def owned_by(self, owner: str) -> BlobStore:
        """See `ManagedBlobStore.owned_by`."""
        return OwnedBlobStore(self, owner)

    def check(self) -> None:
        """Do nothing: memory is always available."""

    def check_writable(self) -> None:
        """See `ManagedBlobStore.check_writable`."""
        with self._lock:
            self._reserve(0)

    def close(self) -> None:
        """Do nothing: there are no connections."""

    def _find(self, blob_id: str) -> _Blob:
        with self._lock:
            self._expire()
            if blob_id not in self._blobs:
                raise not_found([blob_id])
            return self._blobs[blob_id]

    def _reserve(self, size: int) -> None:
        used = sum(len(blob.data) for blob in self._blobs.values())
        if self._max_bytes is not None and used + size > self._max_bytes:
            raise BlobStoreFullError(f"{size} bytes do not fit: {used} of {self._max_bytes} bytes are used")

    def _expire(self) -> None:
        now = self._clock()
        for owner, pins in list(self._pins.items()):
            live = {blob_id: expires for blob_id, expires in pins.items() if expires > now}
            if live:
                self._pins[owner] = live
            else:
                del self._pins[owner]
        for blob_id in self._unpinned(self._ttl_s):
            del self._blobs[blob_id]

    def _unpinned(self, least_s: float) -> dict[str, int]:
        """The sizes of all blobs without a pin and not renewed for at least `least_s`."""
        now = self._clock()
        pinned = set().union(*self._pins.values())
        return {
            blob_id: len(blob.data)
            for blob_id, blob in self._blobs.items()
            if blob_id not in pinned and now - blob.renewed >= least_s
        }
