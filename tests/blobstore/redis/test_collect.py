"""Collecting on a Redis server: leaks, quarantine, foreign keys, and concurrent clients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from blobstore import BlobCorruptError, Collected, RedisBlobStore, blob_id_of
from tests.blobstore.controls import RedisControls

NEVER = -1
TTL_S = 1000
HEX = blob_id_of(b"one").removeprefix("sha256:")
OTHER_HEX = blob_id_of(b"other").removeprefix("sha256:")
NOTHING = Collected(0, 0)


@pytest.fixture
def store(server) -> RedisBlobStore:
    return RedisBlobStore(server.client, prefix="p:", ttl_s=TTL_S)


def pass_time(server, seconds: float) -> None:
    RedisControls(server.client).pass_time(seconds)


@pytest.mark.parametrize("owner", [None, "job"])
def test_blob_whose_pins_were_lost(store: RedisBlobStore, server, owner: str | None) -> None:
    # Given a blob without an expiry, whose pins are missing or expired
    blob_id = store.put(b"one", owner=owner)
    store.pin([blob_id], "lost")
    server.client.zrem(f"p:pins:{HEX}", "lost")
    if owner is not None:
        server.client.zadd(f"p:pins:{HEX}", {owner: 1})
    # When it is collected, Then it gets the expiry of an unpinned blob, but not from a dry run
    assert store.collect(grace_s=0, dry_run=True) == NOTHING
    assert server.client.ttl(f"p:blob:{HEX}") == NEVER
    assert store.collect(grace_s=0) == NOTHING
    assert TTL_S - 10 < server.client.ttl(f"p:blob:{HEX}") <= TTL_S
    # and it is freed when it is old enough
    pass_time(server, 500)
    assert store.collect(grace_s=600) == NOTHING
    assert store.collect(grace_s=400) == Collected(1, 3)


def test_expired_pins_keep_nothing(store: RedisBlobStore, server) -> None:
    store.put(b"one")
    server.client.zadd(f"p:pins:{HEX}", {"job": 1})
    assert store.collect(grace_s=0, dry_run=True) == Collected(1, 3)
    assert store.collect(grace_s=0) == Collected(1, 3)
    assert server.client.keys() == []


def test_upload_whose_manifest_was_lost(store: RedisBlobStore, server) -> None:
    store.put(b"one")
    server.client.hdel(f"p:blob:{HEX}", "manifest")
    assert store.collect(grace_s=0) == Collected(1, 3)
    assert server.client.keys() == []


def test_upload_without_an_expiry(store: RedisBlobStore, server) -> None:
    # Given an abandoned upload without an expiry, and an unfinished one
    for name, ttl in (("abandoned", None), ("unfinished", 50)):
        server.client.hset(f"p:staging:{name}", "1", b"chunk")
        if ttl:
            server.client.expire(f"p:staging:{name}", ttl)
    # When they are collected, Then the first gets an expiry, but not from a dry run
    assert store.collect(grace_s=0, dry_run=True) == NOTHING
    assert server.client.ttl("p:staging:abandoned") == NEVER
    assert store.collect(grace_s=0) == NOTHING
    assert 110 < server.client.ttl("p:staging:abandoned") <= 120
    assert 40 < server.client.ttl("p:staging:unfinished") <= 50


def test_expired_pins_among_others(store: RedisBlobStore, server) -> None:
    # Given two owners of two blobs, each with an expired pin and a committed one
    for data, committed, expired in ((b"one", "first", "second"), (b"other", "second", "first")):
        store.pin([store.put(data, owner=expired)], committed)
    pass_time(server, 3601)
    before = {key: server.client.zrange(key, 0, -1) for key in server.client.keys("p:[op][wi]n*")}
    assert [len(members) for members in before.values()] == [2, 2, 2, 2]
    # When there is a dry run, Then they stay; when blobs are collected, they are removed on both sides
    store.collect(grace_s=0, dry_run=True)
    assert {key: server.client.zrange(key, 0, -1) for key in before} == before
    assert store.collect(grace_s=0) == NOTHING
    assert {key.decode(): server.client.zrange(key, 0, -1) for key in before} == {
        f"p:pins:{HEX}": [b"first"],
        f"p:pins:{OTHER_HEX}": [b"second"],
        "p:owner:first": [HEX.encode()],
        "p:owner:second": [OTHER_HEX.encode()],
    }


def test_quarantined_blobs_have_the_same_grace_period(store: RedisBlobStore, server) -> None:
    # Given a blob that was quarantined ten minutes ago
    blob_id = store.put(b"one")
    server.client.hset(f"p:blob:{HEX}", "0", b"two!")
    with pytest.raises(BlobCorruptError):
        store.get(blob_id)
    pass_time(server, 600)
    # When the grace period is shorter, Then it is freed, and its stored bytes count
    assert store.collect(grace_s=700) == NOTHING
    assert store.collect(grace_s=500, dry_run=True) == Collected(0, 0, quarantined=1, quarantined_bytes=4)
    assert server.client.exists(f"p:quarantine:{HEX}")
    assert store.collect(grace_s=500) == Collected(0, 0, quarantined=1, quarantined_bytes=4)
    assert server.client.keys() == []


def test_quarantined_blob_without_an_expiry(store: RedisBlobStore, server) -> None:
    server.client.hset(f"p:quarantine:{HEX}", "0", b"two!")
    assert store.collect(grace_s=0) == NOTHING
    assert 86_000 < server.client.ttl(f"p:quarantine:{HEX}") <= 86_400


def test_foreign_keys_are_unchanged(store: RedisBlobStore, server) -> None:
    # Given foreign keys with names like those of this store, and others
    client = server.client
    for kind in ("blob", "quarantine", "pins"):
        client.set(f"p:{kind}:{HEX}", b"text", ex=60)
        client.hset(f"p:{kind}:notes", "0", b"text")
        client.zadd(f"p:{kind}:scores", {"somebody": 1})
        client.expire(f"p:{kind}:notes", 60)
        client.hset(f"p:{kind}:".encode() + b"\xff" * 32, "0", b"text")
        client.hset(f"other:{kind}:{HEX}", "0", b"text")
    client.set("p:owner:somebody", b"text")
    client.zadd(b"p:owner:\xff", {"somebody": 1})
    # and a blob with a key of another type in place of its pins
    store.put(b"other")
    client.rpush(f"p:pins:{OTHER_HEX}", "somebody")
    before = {key: client.dump(key) for key in client.scan_iter()}
    # When blobs are collected, Then nothing fails and nothing is freed
    assert store.collect(grace_s=0) == NOTHING
    assert {key: client.dump(key) for key in client.scan_iter()} == before
    assert "\ufffd" not in set(store.owners())


class WatchedClient(redis.Redis):
    """Calls `meanwhile` after each listing of keys, and lists each key twice."""

    meanwhile: Callable[[], object]

    def scan(self, *args: object, **options: object) -> tuple[int, list[bytes]]:
        cursor, keys = super().scan(*args, **options)
        self.meanwhile()
        return cursor, [*keys, *keys]


@pytest.mark.parametrize(
    "rescue",
    [
        lambda store, blob_id: store.put(b"one", owner="job"),
        lambda store, blob_id: store.pin([blob_id], "job"),
        lambda store, blob_id: (store.drop(blob_id), store.put(b"one", owner="job")),
    ],
    ids=["put", "pin", "drop and put"],
)
def test_pinned_between_listing_and_freeing(store: RedisBlobStore, server, rescue: Callable[..., object]) -> None:
    blob_id = store.put(b"one")
    with WatchedClient.from_url(server.url) as client:
        client.meanwhile = lambda: rescue(store, blob_id)
        assert RedisBlobStore(client, prefix="p:", ttl_s=TTL_S).collect(grace_s=0) == NOTHING
    assert store.get(blob_id) == b"one"


def test_renewed_between_listing_and_freeing(store: RedisBlobStore, server) -> None:
    blob_id = store.put(b"one")
    pass_time(server, 500)
    with WatchedClient.from_url(server.url) as client:
        client.meanwhile = lambda: store.put(b"one")
        assert RedisBlobStore(client, prefix="p:", ttl_s=TTL_S).collect(grace_s=400) == NOTHING
    assert blob_id in store


def test_dropped_between_listing_and_freeing(store: RedisBlobStore, server) -> None:
    blob_id = store.put(b"one")
    with WatchedClient.from_url(server.url) as client:
        client.meanwhile = lambda: store.drop(blob_id)
        assert RedisBlobStore(client, prefix="p:", ttl_s=TTL_S).collect(grace_s=0) == NOTHING


@pytest.mark.parametrize("dry_run", [False, True])
def test_keys_that_are_listed_twice_count_once(store: RedisBlobStore, server, dry_run: bool) -> None:
    store.put(b"one")
    with WatchedClient.from_url(server.url) as client:
        client.meanwhile = lambda: None
        watched = RedisBlobStore(client, prefix="p:", ttl_s=TTL_S)
        assert watched.collect(grace_s=0, dry_run=dry_run) == Collected(1, 3)


def test_more_blobs_than_are_listed_at_once(store: RedisBlobStore, server) -> None:
    # Given a server without scripts, as after a restart
    for size in range(1500):
        store.put(bytes(size))
    store.put(b"one", owner="job")
    server.client.script_flush()
    # When they are collected, Then all are freed but the pinned one
    assert store.collect(grace_s=0) == Collected(1500, sum(range(1500)))
    assert {key.decode() for key in server.client.scan_iter()} == {f"p:blob:{HEX}", f"p:pins:{HEX}", "p:owner:job"}


def test_full_server(start_server) -> None:
    server = start_server()
    store = RedisBlobStore(server.client, prefix="p:")
    store.put(b"one")
    store.pin([store.put(b"leak")], "lost")
    server.client.delete(f"p:pins:{blob_id_of(b'leak').removeprefix('sha256:')}")
    server.client.config_set("maxmemory", "1")
    assert store.collect(grace_s=0) == Collected(1, 3)
    assert store.collect(grace_s=0) == Collected(1, 4)
