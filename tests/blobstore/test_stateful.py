"""Whatever is done to a store, in any order, it agrees with a dictionary and sets."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule, run_state_machine_as_test

from blobstore import (
    BlobCorruptError,
    BlobInfo,
    BlobNotFoundError,
    InMemoryBlobStore,
    ManagedBlobStore,
    RedisBlobStore,
    blob_id_of,
)

CHUNK_BYTES = 8
contents = st.binary(max_size=3 * CHUNK_BYTES) | st.sampled_from([b"", b"a" * CHUNK_BYTES, b"b" * 2 * CHUNK_BYTES])
owners = st.sampled_from(["first", "second"])
mimes = st.sampled_from(["image/png", "text/plain"])
SETTINGS = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


class BlobStoreMachine(RuleBasedStateMachine):
    known = Bundle("known")

    def __init__(self, store: ManagedBlobStore, corrupt: Callable[[ManagedBlobStore, str], None]) -> None:
        super().__init__()
        self.store = store
        self.corrupt_behind = corrupt
        self.blobs: dict[str, tuple[bytes, str]] = {}
        self.corrupted: set[str] = set()
        self.pinned: dict[str, set[str]] = {}

    @rule(target=known, data=contents)
    def hear_of(self, data: bytes) -> str:
        return blob_id_of(data)

    @rule(target=known, data=contents, mime=mimes, owner=st.none() | owners)
    def put(self, data: bytes, mime: str, owner: str | None) -> str:
        blob_id = self.store.put(data, mime=mime, owner=owner)
        assert blob_id == blob_id_of(data)
        self.blobs.setdefault(blob_id, (data, mime))
        if owner is not None:
            self.pinned.setdefault(owner, set()).add(blob_id)
        return blob_id

    @rule(blob_id=known)
    def get(self, blob_id: str) -> None:
        if blob_id in self.corrupted:
            with pytest.raises(BlobCorruptError):
                self.store.get(blob_id)
            self.corrupted.remove(blob_id)
            del self.blobs[blob_id]
        elif blob_id in self.blobs:
            assert self.store.get(blob_id) == self.blobs[blob_id][0]
        else:
            with pytest.raises(BlobNotFoundError):
                self.store.get(blob_id)

    @rule(blob_id=known)
    def drop(self, blob_id: str) -> None:
        self.store.drop(blob_id)
        self.blobs.pop(blob_id, None)
        self.corrupted.discard(blob_id)

    @rule(blob_ids=st.lists(known, max_size=3), owner=owners)
    def pin(self, blob_ids: list[str], owner: str) -> None:
        absent = set(blob_ids) - self.blobs.keys()
        if absent:
            with pytest.raises(BlobNotFoundError) as caught:
                self.store.pin(blob_ids, owner)
            assert all((blob_id in str(caught.value)) == (blob_id in absent) for blob_id in blob_ids)
        else:
            self.store.pin(blob_ids, owner)
            self.pinned.setdefault(owner, set()).update(blob_ids)

    @rule(owner=owners)
    def release(self, owner: str) -> None:
        assert self.store.release(owner) == len(self.pinned.pop(owner, ()))

    @rule(target=known, blob_id=known)
    def corrupt(self, blob_id: str) -> object:
        if self.blobs.get(blob_id, (b"",))[0] and blob_id not in self.corrupted:
            self.corrupt_behind(self.store, blob_id)
            self.corrupted.add(blob_id)
        return multiple()

    @invariant()
    def agrees(self) -> None:
        for blob_id, (data, mime) in self.blobs.items():
            assert blob_id in self.store
            assert self.store.info(blob_id) == BlobInfo(blob_id, len(data), mime)
        for owner in ("first", "second"):
            assert self.store.pins(owner) == self.pinned.get(owner, set())
        assert set(self.store.owners()) == {owner for owner, ids in self.pinned.items() if ids}


def test_memory_agrees_with_a_model() -> None:
    def corrupt(store: InMemoryBlobStore, blob_id: str) -> None:
        blob = store._blobs[blob_id]
        blob.data = bytes([blob.data[0] ^ 1]) + blob.data[1:]

    run_state_machine_as_test(lambda: BlobStoreMachine(InMemoryBlobStore(), corrupt), settings=SETTINGS)


def test_redis_agrees_with_a_model(server) -> None:
    def new_store() -> RedisBlobStore:
        return RedisBlobStore(server.client, prefix=f"{uuid.uuid4().hex}:", chunk_bytes=CHUNK_BYTES)

    def corrupt(store: RedisBlobStore, blob_id: str) -> None:
        key = store._key("blob", blob_id.removeprefix("sha256:"))
        first = server.client.hget(key, "0")
        server.client.hset(key, "0", bytes([first[0] ^ 1]) + first[1:])

    run_state_machine_as_test(lambda: BlobStoreMachine(new_store(), corrupt), settings=SETTINGS)
