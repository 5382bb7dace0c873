from __future__ import annotations

import random
import re
import tracemalloc
from collections.abc import Callable, Iterable
from typing import ClassVar

import pytest
import redis
from redis.exceptions import NoPermissionError

from blobstore import (
    BlobStoreConfigError,
    BlobStoreError,
    RedisBlobStore,
    blob_id_of,
    open_blob_store,
)
from blobstore.redis.store import BLOBS_PER_SCRIPT, CHUNK_BYTES
from tests.conftest import free_port, wait_until

MIB = 1024 * 1024
TTL_S, LEASE_S = 1000, 5000
NEVER = -1


@pytest.fixture
def store(server) -> RedisBlobStore:
    return RedisBlobStore(server.client, prefix="p:", ttl_s=TTL_S, pin_lease_s=LEASE_S)


def key_of(kind: str, blob_id: str) -> str:
    return f"p:{kind}:{blob_id.removeprefix('sha256:')}"


def test_a_blob_is_one_hash_of_chunks_and_a_manifest(store: RedisBlobStore, server) -> None:
    data = random.Random(1).randbytes(2 * CHUNK_BYTES + 5)
    blob_id = store.put(data)
    assert server.client.keys() == [key_of("blob", blob_id).encode()]
    fields = server.client.hgetall(key_of("blob", blob_id))
    assert fields.pop(b"manifest")
    assert fields == {b"0": data[:CHUNK_BYTES], b"1": data[CHUNK_BYTES : 2 * CHUNK_BYTES], b"2": data[-5:]}


def test_server_memory_is_close_to_the_stored_bytes(store: RedisBlobStore, server) -> None:
    store.put(b"connects the client and loads the scripts")
    before = server.client.info("memory")["used_memory"]
    store.put(bytes(32 * MIB))
    # the buffer of a client may stay as large as a chunk
    assert server.client.info("memory")["used_memory"] - before < 1.02 * 32 * MIB + 2 * MIB


def test_client_memory_for_32_mb_is_less_than_a_third_of_it(store: RedisBlobStore) -> None:
    data = random.Random(2).randbytes(32_000_000)
    tracemalloc.start()
    try:
        # When the bytes are put twice, Then they are not copied
        for _ in range(2):
            blob_id = store.put(data)
            assert tracemalloc.get_traced_memory()[1] < 0.3 * len(data)
        # When they are read, Then there is one copy
        back = store.get(blob_id)
        assert tracemalloc.get_traced_memory()[1] < 1.3 * len(data)
    finally:
        tracemalloc.stop()
    assert back == data


def test_stored_bytes_are_not_sent_again(store: RedisBlobStore, server) -> None:
    data = bytes(4 * MIB)
    store.put(data)
    before = server.client.info("stats")["total_net_input_bytes"]
    store.put(data, owner="job")
    assert server.client.info("stats")["total_net_input_bytes"] - before < 10_000


def test_blobs_of_another_chunk_size_are_readable(store: RedisBlobStore, server) -> None:
    blob_id = store.put(b"0123456789" * 10)
    assert RedisBlobStore(server.client, prefix="p:", chunk_bytes=7).get(blob_id) == b"0123456789" * 10
    small = RedisBlobStore(server.client, prefix="p:", chunk_bytes=7).put(b"abc" * 10)
    assert store.get(small) == b"abc" * 10


def test_prefixes_separate_stores(store: RedisBlobStore, server) -> None:
    other = RedisBlobStore(server.client, prefix="[p]*:")
    blob_id = store.put(b"one", owner="job")
    assert blob_id not in other
    other.put(b"one", owner="other job")
    assert list(other.owners()) == ["other job"]
    other.drop(blob_id)
    assert blob_id in store


def lifetimes(store: RedisBlobStore, server, blob_id: str) -> dict[str, int]:
    """Seconds, rounded, until a blob and the keys of its pins expire."""
    keys = {
        "blob": key_of("blob", blob_id),
        "pins": key_of("pins", blob_id),
        "job": "p:owner:job",
        "other": "p:owner:other",
    }
    left = {name: server.client.pttl(key) for name, key in keys.items()}
    return {name: ms if ms < 0 else round(ms, -5) // 1000 for name, ms in left.items() if ms != -2}


def test_expiry_follows_the_pins(store: RedisBlobStore, server) -> None:
    # Given an unpinned blob, Then it expires after its ttl
    blob_id = store.put(b"one")
    assert lifetimes(store, server, blob_id) == {"blob": TTL_S}
    # pinned provisionally: with the pin
    store.put(b"one", owner="job")
    assert lifetimes(store, server, blob_id) == {"blob": LEASE_S, "pins": LEASE_S, "job": LEASE_S}
    # put again without an owner: as before
    store.put(b"one")
    assert lifetimes(store, server, blob_id) == {"blob": LEASE_S, "pins": LEASE_S, "job": LEASE_S}
    # committed: never, also after later puts
    store.pin([blob_id], "job")
    assert lifetimes(store, server, blob_id) == {"blob": NEVER, "pins": NEVER, "job": NEVER}
    store.put(b"one", owner="job")
    store.put(b"one", owner="other")
    assert lifetimes(store, server, blob_id) == {"blob": NEVER, "pins": NEVER, "job": NEVER, "other": LEASE_S}
    # released by one owner: with the provisional pin of the other
    store.release("job")
    assert lifetimes(store, server, blob_id) == {"blob": LEASE_S, "pins": LEASE_S, "other": LEASE_S}
    # released by all: after its ttl again, and no other key is left
    store.release("other")
    assert lifetimes(store, server, blob_id) == {"blob": TTL_S}


def test_pins_of_a_dropped_blob_hold_after_a_put(store: RedisBlobStore, server) -> None:
    blob_id = store.put(b"one")
    store.pin([blob_id], "job")
    store.drop(blob_id)
    store.put(b"one")
    assert lifetimes(store, server, blob_id) == {"blob": NEVER, "pins": NEVER, "job": NEVER}


def test_expiry_in_real_time(server) -> None:
    # Given short lifetimes
    store = RedisBlobStore(server.client, prefix="p:", ttl_s=1.0, pin_lease_s=1.0)
    unpinned, provisional, committed = store.put(b"one"), store.put(b"two", owner="late"), store.put(b"three")
    store.pin([committed], "job")
    # When real time passes, Then they end
    wait_until(lambda: unpinned not in store and provisional not in store, timeout_s=10)
    assert list(store.owners()) == ["job"]
    assert store.get(committed) == b"three"


@pytest.mark.parametrize("count", [1, BLOBS_PER_SCRIPT, 2 * BLOBS_PER_SCRIPT + 1])
def test_other_clients_are_served_during_a_long_release(store: RedisBlobStore, server, count: int) -> None:
    # Given a job with many blobs, whose pins are counted before each script of its release
    class WatchedClient(redis.Redis):
        def evalsha(self, *args: object) -> object:
            left.append(len(store.pins("job")))
            return super().evalsha(*args)

    left: list[int] = []
    ids = [store.put(str(number).encode(), owner="job") for number in range(count)]
    store.pin(ids, "job")
    assert store.pins("job") == set(ids)
    assert store.usage("job") == sum(len(str(number)) for number in range(count))
    # and a server with the script, so that each call is sent once
    assert store.release("nobody") == 0
    # When it is released, Then each script removes some pins, and the result is their sum
    with WatchedClient.from_url(server.url) as client:
        assert RedisBlobStore(client, prefix="p:").release("job") == count
    assert left == list(range(count, -1, -BLOBS_PER_SCRIPT))
    assert list(store.owners()) == []
    assert not server.client.keys("p:pins:*")


def test_a_release_renews_no_blob_of_an_expired_pin(store: RedisBlobStore, server) -> None:
    # Given a job with an expired pin and a committed one
    blob_id, other = store.put(b"one"), store.put(b"two")
    store.pin([blob_id, other], "job")
    for key, member in (("p:owner:job", blob_id.removeprefix("sha256:")), (key_of("pins", blob_id), "job")):
        server.client.zadd(key, {member: 1})
    server.client.expire(key_of("blob", blob_id), 300)
    # When it is released, Then only the blob of the committed pin counts and is renewed
    assert store.release("job") == 1
    assert server.client.ttl(key_of("blob", blob_id)) <= 300
    assert server.client.ttl(key_of("blob", other)) > 300


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu", "allkeys-random", "volatile-lru", "volatile-ttl"])
def test_eviction_policies_are_rejected(start_server, policy: str) -> None:
    server = start_server("--maxmemory-policy", policy)
    with pytest.raises(BlobStoreConfigError, match=f"{policy}.*set maxmemory-policy to noeviction"):
        open_blob_store(server.url).check()


def test_a_policy_is_found_where_config_is_renamed(start_server) -> None:
    server = start_server("--maxmemory-policy", "allkeys-lru", "--rename-command", "CONFIG", "")
    with pytest.raises(BlobStoreConfigError, match=r"allkeys-lru.*set maxmemory-policy to noeviction"):
        open_blob_store(server.url).check()


def test_a_cluster_is_refused(start_server) -> None:
    # Given a node of a Redis Cluster that has no slots yet
    server = start_server("--port", str(free_port()), "--cluster-enabled", "yes")
    is_cluster = r"is a Redis Cluster, .* use one server, or Sentinel"
    # When / Then
    with pytest.raises(BlobStoreConfigError, match=is_cluster):
        open_blob_store(server.url).check()
    # Given all slots, and a user that may not run INFO: a script on two keys tells
    server.client.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
    wait_until(lambda: "cluster_state:ok" in str(server.client.execute_command("CLUSTER", "INFO")), what="the cluster")
    server.client.acl_setuser("app", enabled=True, passwords=["+any"], keys=["*"], commands=["+@all", "-info"])
    # When / Then
    with pytest.raises(BlobStoreConfigError, match=is_cluster):
        open_blob_store(server.url.replace("unix://", "unix://app:any@")).check()


def test_a_user_that_may_not_read_the_policy_is_accepted(start_server) -> None:
    server = start_server("--maxmemory-policy", "allkeys-lru")
    server.client.acl_setuser("app", enabled=True, passwords=["+s3cret"], keys=["*"], commands=["+@all", "-info"])
    store = open_blob_store(server.url.replace("unix://", "unix://app:s3cret@"))
    store.check()
    store.close()


def test_a_forbidden_command_is_a_blob_store_error(start_server) -> None:
    server = start_server()
    server.client.acl_setuser("app", enabled=True, passwords=["+s3cret"], keys=["*"], commands=["+@all", "-hexists"])
    store = open_blob_store(server.url.replace("unix://", "unix://app:s3cret@"))
    with pytest.raises(BlobStoreError, match="hexists") as caught:
        assert blob_id_of(b"one") in store
    assert isinstance(caught.value.__cause__, NoPermissionError)
    # And one in a script is told without the place in it
    denied = (
        r"The user executing the script can't run this .*command|ACL failure in script: .* run the 'hexists' command"
    )
    with pytest.raises(BlobStoreError, match=rf"^Redis at \S+: (?:{denied})$"):
        store.put(b"one")
    store.close()


class CountedConnection(redis.UnixDomainSocketConnection):
    """Records the commands of each round trip."""

    trips: ClassVar[list[list[bytes]]] = []

    def send_packed_command(self, command: Iterable[bytes], check_health: bool = True) -> None:
        packed = list(command)
        self.trips.append(re.findall(rb"\*\d+\r\n\$\d+\r\n(\w+)\r\n", b"".join(packed)))
        super().send_packed_command(packed, check_health)


def test_round_trips(server) -> None:
    # Given a connected store and a server with its scripts
    path = server.url.removeprefix("unix://")
    with redis.Redis.from_pool(redis.ConnectionPool(connection_class=CountedConnection, path=path)) as client:
        store = RedisBlobStore(client, prefix="p:", chunk_bytes=10)
        for _ in range(2):
            store.pin([store.put(b"first", owner="job")], "job")

        def trips(call: Callable[[], object]) -> list[list[bytes]]:
            CountedConnection.trips.clear()
            call()
            return CountedConnection.trips[:]

        # When / Then
        begin, write, commit = [b"EVALSHA", b"HMGET"], [b"HSET", b"PEXPIRE", b"HMGET"], [b"EVALSHA"]
        assert trips(lambda: store.put(b"one chunk", owner="job")) == [write + begin, commit]
        assert trips(lambda: store.pin([blob_id_of(b"one chunk")], "job")) == [[b"EVALSHA"]]
        assert trips(lambda: store.put(b"one chunk", owner="job")) == [write + begin, [b"EVALSHA"]]
        write = [b"HSET"] * 4 + write
        assert trips(lambda: store.put(bytes(50), owner="job")) == [begin, write, [b"HMGET"], [b"HMGET"], commit]
        assert trips(lambda: store.put(bytes(50), owner="job")) == [begin, [b"HMGET"], [b"HMGET"], [b"EVALSHA"]]
