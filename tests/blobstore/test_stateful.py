"""Any sequence of calls on a store agrees with a model of dictionaries, while time passes and the store fills up."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from blobstore import BlobCorruptError, BlobInfo, BlobNotFoundError, BlobStoreFullError, Collected, blob_id_of
from tests.blobstore.controls import CHUNK_BYTES, MemoryControls, RedisControls

HOUR_S = 3600.0
LEASE_H = 10
QUARANTINE_H = 24
# few contents, so that each is used often; they have no chunk, one and several
contents = st.sampled_from([b"", b"a", b"b" * CHUNK_BYTES, b"c" * (2 * CHUNK_BYTES + 1)])
owners = st.sampled_from(["first", "second"])
mimes = st.sampled_from(["image/png", "text/plain"])
SETTINGS = settings(
    max_examples=50,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@dataclass
class Stored:
    data: bytes
    mime: str
    renewed_h: int


@dataclass
class Model:
    """The expected content of a store. Times are in hours, so that the real time of a test is negligible."""

    ttl_h: int
    now_h: int = 0
    blobs: dict[str, Stored] = field(default_factory=dict)
    corrupted: set[str] = field(default_factory=set)
    # blob id -> its size and when it was quarantined
    quarantined: dict[str, tuple[int, int]] = field(default_factory=dict)
    # owner -> blob id -> when the pin expires
    pinned: dict[str, dict[str, float]] = field(default_factory=lambda: {"first": {}, "second": {}})

    def unpinned(self, least_h: int) -> dict[str, int]:
        """The sizes of unpinned blobs that were not renewed for at least `least_h`."""
        pinned = set().union(*self.pinned.values())
        return {
            blob_id: len(blob.data)
            for blob_id, blob in self.blobs.items()
            if blob_id not in pinned and self.now_h - blob.renewed_h >= least_h
        }

    def quarantined_for(self, least_h: int) -> dict[str, int]:
        """The sizes of blobs quarantined at least `least_h` ago."""
        return {blob_id: size for blob_id, (size, at_h) in self.quarantined.items() if self.now_h - at_h >= least_h}

    def remove(self, blob_id: str) -> None:
        self.blobs.pop(blob_id, None)
        self.corrupted.discard(blob_id)

    def pass_time(self, hours: int) -> None:
        self.now_h += hours
        for owner, pins in self.pinned.items():
            self.pinned[owner] = {blob_id: end_h for blob_id, end_h in pins.items() if end_h > self.now_h}
        self.free(self.ttl_h, QUARANTINE_H)

    def free(self, least_h: int, least_quarantined_h: int) -> None:
        for blob_id in self.unpinned(least_h):
            self.remove(blob_id)
        for blob_id in self.quarantined_for(least_quarantined_h):
            del self.quarantined[blob_id]


class BlobStoreMachine(RuleBasedStateMachine):
    known = Bundle("known")

    def __init__(self, controls: MemoryControls | RedisControls) -> None:
        super().__init__()
        self.controls = controls
        self.full = False
        self.named: set[str] = set()

    @initialize(ttl_h=st.sampled_from([LEASE_H // 2, 2 * LEASE_H]))
    def open(self, ttl_h: int) -> None:
        self.model = Model(ttl_h)
        self.store = self.controls.open(ttl_s=ttl_h * HOUR_S, pin_lease_s=LEASE_H * HOUR_S)

    def teardown(self) -> None:
        self.controls.fill(self.store, False)

    @rule(target=known, data=contents)
    def name_blob(self, data: bytes) -> str:
        self.named.add(blob_id_of(data))
        return blob_id_of(data)

    def found_corrupt(self, blob_id: str) -> None:
        """The store has found a corrupt blob."""
        if self.controls.has_quarantine:
            self.model.quarantined[blob_id] = (len(self.model.blobs[blob_id].data), self.model.now_h)
        self.model.remove(blob_id)

    @rule(target=known, data=contents, mime=mimes, owner=st.none() | owners)
    def put(self, data: bytes, mime: str, owner: str | None) -> str:
        blob_id = self.name_blob(data)
        if blob_id in self.model.corrupted:
            self.found_corrupt(blob_id)
        if self.full and blob_id not in self.model.blobs:
            with pytest.raises(BlobStoreFullError):
                self.store.put(data, mime=mime, owner=owner)
            return blob_id
        assert self.store.put(data, mime=mime, owner=owner) == blob_id
        self.model.blobs.setdefault(blob_id, Stored(data, mime, 0)).renewed_h = self.model.now_h
        if owner is not None:
            pins = self.model.pinned[owner]
            pins[blob_id] = max(self.model.now_h + LEASE_H, pins.get(blob_id, 0))
        return blob_id

    @rule(blob_id=known, owner=st.none() | owners)
    def put_again(self, blob_id: str, owner: str | None) -> None:
        if blob := self.model.blobs.get(blob_id):
            self.put(blob.data, "text/other", owner)

    @rule(blob_id=known)
    def get(self, blob_id: str) -> None:
        if blob_id in self.model.corrupted:
            with pytest.raises(BlobCorruptError):
                self.store.get(blob_id)
            self.found_corrupt(blob_id)
        elif blob_id in self.model.blobs:
            assert self.store.get(blob_id) == self.model.blobs[blob_id].data
        else:
            with pytest.raises(BlobNotFoundError):
                self.store.get(blob_id)

    @rule(blob_id=known)
    def drop(self, blob_id: str) -> None:
        self.store.drop(blob_id)
        self.model.remove(blob_id)

    @rule(blob_ids=st.lists(known, max_size=3), owner=owners, provisional=st.booleans())
    def pin(self, blob_ids: list[str], owner: str, provisional: bool) -> None:
        absent = set(blob_ids) - self.model.blobs.keys()
        if absent:
            with pytest.raises(BlobNotFoundError) as caught:
                self.store.pin(blob_ids, owner, provisional=provisional)
            assert all((blob_id in str(caught.value)) == (blob_id in absent) for blob_id in blob_ids)
        else:
            self.store.pin(blob_ids, owner, provisional=provisional)
            pins, until_h = self.model.pinned[owner], self.model.now_h + LEASE_H if provisional else math.inf
            for blob_id in blob_ids:
                pins[blob_id] = max(until_h, pins.get(blob_id, 0))
                if provisional:
                    self.model.blobs[blob_id].renewed_h = self.model.now_h

    @rule(owner=owners)
    def release(self, owner: str) -> None:
        pins = self.model.pinned[owner]
        assert self.store.release(owner) == len(pins)
        for blob_id in pins.keys() & self.model.blobs.keys():
            self.model.blobs[blob_id].renewed_h = self.model.now_h
        pins.clear()

    @rule(grace_h=st.sampled_from([0, 1, LEASE_H // 2, LEASE_H]), dry_run=st.booleans())
    def collect(self, grace_h: int, dry_run: bool) -> None:
        grace_h = min(grace_h, self.model.ttl_h)
        blobs, quarantined = self.model.unpinned(grace_h), self.model.quarantined_for(grace_h)
        expected = Collected(len(blobs), sum(blobs.values()), len(quarantined), sum(quarantined.values()))
        assert self.store.collect(grace_s=grace_h * HOUR_S, dry_run=dry_run) == expected
        if not dry_run:
            self.model.free(grace_h, grace_h)

    @rule(hours=st.integers(1, LEASE_H // 2))
    def pass_time(self, hours: int) -> None:
        self.controls.pass_time(hours * HOUR_S)
        self.model.pass_time(hours)

    @rule(blob_id=known)
    def corrupt(self, blob_id: str) -> None:
        blob = self.model.blobs.get(blob_id)
        if blob and blob.data and blob_id not in self.model.corrupted:
            self.controls.corrupt(self.store, blob_id)
            self.model.corrupted.add(blob_id)

    @rule(full=st.sampled_from([False, False, True]))
    def fill(self, full: bool) -> None:
        self.controls.fill(self.store, full)
        self.full = full

    @invariant()
    def agrees(self) -> None:
        assert {blob_id for blob_id in self.named if blob_id in self.store} == self.model.blobs.keys()
        for blob_id, blob in self.model.blobs.items():
            assert self.store.info(blob_id) == BlobInfo(blob_id, len(blob.data), blob.mime)
        for owner, pins in self.model.pinned.items():
            assert self.store.pins(owner) == pins.keys()
            stored = pins.keys() & self.model.blobs.keys()
            assert self.store.usage(owner) == sum(len(self.model.blobs[blob_id].data) for blob_id in stored)
        assert set(self.store.owners()) == {owner for owner, pins in self.model.pinned.items() if pins}


def test_memory_agrees_with_a_model() -> None:
    run_state_machine_as_test(lambda: BlobStoreMachine(MemoryControls()), settings=settings(SETTINGS, max_examples=150))


def test_redis_agrees_with_a_model(start_server) -> None:
    server = start_server()
    run_state_machine_as_test(lambda: BlobStoreMachine(RedisControls(server.client)), settings=SETTINGS)
