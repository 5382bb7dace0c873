from __future__ import annotations

from collections.abc import Iterator

import pytest

from blobstore import InMemoryBlobStore, ManagedBlobStore, open_blob_store
from blobstore.testing.conformance import SHORT_S, SMALL_BYTES, BlobStoreConformance, FullStoreConformance
from tests.blobstore.behind import BehindMemory, BehindRedis


class TestInMemoryBlobStore(BlobStoreConformance, FullStoreConformance):
    behind = BehindMemory()

    @pytest.fixture
    def store(self) -> ManagedBlobStore:
        return open_blob_store("memory:")

    @pytest.fixture
    def short_lived(self) -> ManagedBlobStore:
        return self.behind.open(ttl_s=SHORT_S, pin_lease_s=SHORT_S)

    @pytest.fixture
    def small(self) -> ManagedBlobStore:
        return InMemoryBlobStore(max_bytes=SMALL_BYTES)

    def pass_time(self, store: ManagedBlobStore, seconds: float) -> None:
        self.behind.pass_time(seconds)

    def corrupt(self, store: ManagedBlobStore, blob_id: str) -> None:
        self.behind.corrupt(store, blob_id)


class TestRedisBlobStore(BlobStoreConformance, FullStoreConformance):
    @pytest.fixture
    def store(self, server) -> Iterator[ManagedBlobStore]:
        self.behind = BehindRedis(server.client)
        store = open_blob_store(server.url)
        yield store
        store.close()

    @pytest.fixture
    def short_lived(self, server) -> ManagedBlobStore:
        self.behind = BehindRedis(server.client)
        return self.behind.open(ttl_s=SHORT_S, pin_lease_s=SHORT_S)

    @pytest.fixture
    def small(self, start_server) -> Iterator[ManagedBlobStore]:
        server = start_server()
        server.client.config_set("maxmemory", server.client.info("memory")["used_memory"] + SMALL_BYTES)
        store = open_blob_store(server.url)
        store.check()
        yield store
        store.close()

    def pass_time(self, store: ManagedBlobStore, seconds: float) -> None:
        self.behind.pass_time(seconds)

    def corrupt(self, store: ManagedBlobStore, blob_id: str) -> None:
        self.behind.corrupt(store, blob_id)
