from __future__ import annotations

from collections.abc import Iterator

import pytest

from blobstore import InMemoryBlobStore, ManagedBlobStore, open_blob_store
from blobstore.testing.conformance import SHORT_S, SMALL_BYTES, BlobStoreConformance, FullStoreConformance
from tests.blobstore.controls import MemoryControls, RedisControls


class TestInMemoryBlobStore(BlobStoreConformance, FullStoreConformance):
    controls = MemoryControls()

    @pytest.fixture
    def store(self) -> ManagedBlobStore:
        return open_blob_store("memory:")

    @pytest.fixture
    def short_lived(self) -> ManagedBlobStore:
        return self.controls.open(ttl_s=SHORT_S, pin_lease_s=SHORT_S)

    @pytest.fixture
    def small(self) -> ManagedBlobStore:
        return InMemoryBlobStore(max_bytes=SMALL_BYTES)

    def pass_time(self, store: ManagedBlobStore, seconds: float) -> None:
        self.controls.pass_time(seconds)

    def corrupt(self, store: ManagedBlobStore, blob_id: str) -> None:
        self.controls.corrupt(store, blob_id)


class TestRedisBlobStore(BlobStoreConformance, FullStoreConformance):
    @pytest.fixture
    def store(self, server) -> Iterator[ManagedBlobStore]:
        self.controls = RedisControls(server.client)
        store = open_blob_store(server.url)
        yield store
        store.close()

    @pytest.fixture
    def short_lived(self, server) -> ManagedBlobStore:
        self.controls = RedisControls(server.client)
        return self.controls.open(ttl_s=SHORT_S, pin_lease_s=SHORT_S)

    @pytest.fixture
    def small(self, start_server) -> Iterator[ManagedBlobStore]:
        server = start_server()
        server.client.config_set("maxmemory", server.client.info("memory")["used_memory"] + SMALL_BYTES)
        store = open_blob_store(server.url)
        store.check()
        yield store
        store.close()

    def pass_time(self, store: ManagedBlobStore, seconds: float) -> None:
        self.controls.pass_time(seconds)

    def corrupt(self, store: ManagedBlobStore, blob_id: str) -> None:
        self.controls.corrupt(store, blob_id)
