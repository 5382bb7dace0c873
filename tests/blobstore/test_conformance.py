from __future__ import annotations

from collections.abc import Iterator

import pytest

from blobstore import InMemoryBlobStore, ManagedBlobStore, RedisBlobStore, open_blob_store
from blobstore.conformance import SHORT_S, BlobStoreConformance


class TestInMemoryBlobStore(BlobStoreConformance):
    @pytest.fixture
    def store(self) -> ManagedBlobStore:
        return open_blob_store("memory:")

    @pytest.fixture
    def short_lived(self) -> ManagedBlobStore:
        self.now = 0.0
        return InMemoryBlobStore(ttl_s=SHORT_S, pin_lease_s=SHORT_S, clock=lambda: self.now)

    def pass_time(self, store: InMemoryBlobStore, seconds: float) -> None:
        self.now += seconds

    def corrupt(self, store: InMemoryBlobStore, blob_id: str) -> None:
        blob = store._blobs[blob_id]
        blob.data = b"?" + blob.data[1:]


class TestRedisBlobStore(BlobStoreConformance):
    @pytest.fixture
    def store(self, server) -> Iterator[ManagedBlobStore]:
        self.client = server.client
        store = open_blob_store(server.url)
        yield store
        store.close()

    @pytest.fixture
    def short_lived(self, server) -> ManagedBlobStore:
        return RedisBlobStore(server.client, ttl_s=SHORT_S, pin_lease_s=SHORT_S)

    def corrupt(self, store: ManagedBlobStore, blob_id: str) -> None:
        self.client.hset(f"longtake:blob:{blob_id.removeprefix('sha256:')}", "0", b"?" * store.info(blob_id).size)
