"""Changes by other clients between two commands of a call, and lost replies."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import redis
from redis.client import Pipeline

from blobstore import BlobNotFoundError, BlobStoreUnavailableError, RedisBlobStore, blob_id_of

CHUNK_BYTES = 10
DATA = b"0123456789abcdefghijklmnopqrst???"
BLOB_ID = blob_id_of(DATA)
KEY = "p:blob:" + BLOB_ID.removeprefix("sha256:")
QUARANTINE = "p:quarantine:" + BLOB_ID.removeprefix("sha256:")


@pytest.fixture
def store(server) -> RedisBlobStore:
    """An empty store."""
    return RedisBlobStore(server.client, prefix="p:", ttl_s=1000, chunk_bytes=CHUNK_BYTES)


@pytest.fixture
def stored(store: RedisBlobStore) -> RedisBlobStore:
    """A store with one blob."""
    assert store.put(DATA) == BLOB_ID
    return store


class InterruptedReader(redis.Redis):
    """Calls `meanwhile` once, between reading a manifest and the chunks."""

    meanwhile: Callable[[], object] | None = None

    def hmget(self, *args: object) -> object:
        happen, self.meanwhile = self.meanwhile, None
        if happen is not None:
            happen()
        return super().hmget(*args)


@pytest.fixture
def reader(server) -> Iterator[InterruptedReader]:
    with InterruptedReader.from_url(server.url) as client:
        yield client


def test_dropped_while_it_is_read(stored: RedisBlobStore, server, reader: InterruptedReader) -> None:
    reader.meanwhile = lambda: stored.drop(BLOB_ID)
    with pytest.raises(BlobNotFoundError):
        RedisBlobStore(reader, prefix="p:").get(BLOB_ID)
    assert server.client.keys() == []


def test_replaced_while_it_is_read(stored: RedisBlobStore, server, reader: InterruptedReader) -> None:
    # Given a reader that has the manifest of one upload and the chunks of another
    def replace() -> None:
        stored.drop(BLOB_ID)
        RedisBlobStore(server.client, prefix="p:", chunk_bytes=3).put(DATA)

    reader.meanwhile = replace
    # When they do not match, Then the new upload is read, not quarantined
    assert RedisBlobStore(reader, prefix="p:").get(BLOB_ID) == DATA
    assert not server.client.exists(QUARANTINE)


class InterruptedWriter(redis.Redis):
    """Calls `meanwhile` with the first key of a script before it holds a blob or commits an upload."""

    meanwhile: Callable[[str], object]

    def evalsha(self, sha: str, numkeys: int, *args: object) -> object:
        if numkeys > 1:
            self.meanwhile(str(args[0]))
        return super().evalsha(sha, numkeys, *args)


@pytest.fixture
def writer(server) -> Iterator[InterruptedWriter]:
    with InterruptedWriter.from_url(server.url) as client:
        yield client


def test_upload_lost_before_its_commit(server, writer: InterruptedWriter) -> None:
    writer.meanwhile = server.client.unlink
    with pytest.raises(BlobStoreUnavailableError, match=BLOB_ID):
        RedisBlobStore(writer, prefix="p:").put(DATA, owner="job")
    assert server.client.keys() == []


def test_overtaken_upload(server, writer: InterruptedWriter) -> None:
    # Given two clients that put the same bytes, the first of them slower
    quick = RedisBlobStore(server.client, prefix="p:")
    writer.meanwhile = lambda _: quick.put(DATA, mime="text/quick", owner="quick")
    RedisBlobStore(writer, prefix="p:").put(DATA, mime="text/slow", owner="slow")
    # Then the quicker upload is the blob, the other one is removed, and both pin the blob
    assert quick.info(BLOB_ID).mime == "text/quick"
    assert not server.client.keys("p:staging:*")
    assert sorted(quick.owners()) == ["quick", "slow"]


def test_dropped_after_it_was_verified(stored: RedisBlobStore, server, writer: InterruptedWriter) -> None:
    # Given a client that puts a stored blob, which is dropped before it is pinned
    first_keys: list[str] = []

    def drop_once(key: str) -> None:
        if not first_keys:
            stored.drop(BLOB_ID)
        first_keys.append(key.rpartition(":")[0])

    writer.meanwhile = drop_once
    # When / Then it is uploaded
    RedisBlobStore(writer, prefix="p:").put(DATA, owner="job")
    assert list(dict.fromkeys(first_keys)) == ["p:blob", "p:staging"]
    assert stored.get(BLOB_ID) == DATA
    assert stored.pins("job") == {BLOB_ID}
    assert not server.client.keys("p:staging:*")


class RepeatingPipeline(Pipeline):
    """Sends all its commands twice, as after a lost reply."""

    meanwhile: Callable[[], object]

    def execute(self, raise_on_error: bool = True) -> list[object]:
        commands = list(self.command_stack)
        super().execute(raise_on_error)
        self.meanwhile()
        self.command_stack = commands
        return super().execute(raise_on_error)


class RepeatingClient(redis.Redis):
    """Sends every script and every pipeline twice, and calls `meanwhile` between the two."""

    meanwhile: Callable[[], object] = staticmethod(lambda: None)

    def evalsha(self, *args: object) -> object:
        super().evalsha(*args)
        self.meanwhile()
        return super().evalsha(*args)

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        pipe = RepeatingPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)
        pipe.meanwhile = self.meanwhile
        return pipe


@pytest.fixture
def repeating(server) -> Iterator[RepeatingClient]:
    with RepeatingClient.from_url(server.url) as client:
        yield client


def test_lost_replies_to_a_put(server, repeating: RepeatingClient) -> None:
    # Given a client that sends everything twice
    store = RedisBlobStore(repeating, prefix="p:", chunk_bytes=CHUNK_BYTES)
    # When / Then put, pin and get work as if they ran once
    store.put(DATA, owner="job")
    store.pin([BLOB_ID], "job")
    assert store.get(BLOB_ID) == DATA
    assert store.pins("job") == {BLOB_ID}
    assert not server.client.keys("p:staging:*")


def test_lost_reply_to_the_beginning_of_an_upload(store: RedisBlobStore, server, repeating: RepeatingClient) -> None:
    # Given a client that begins an upload twice; another client puts the same bytes in between
    repeating.meanwhile = lambda: store.put(DATA, owner="quick")
    # When it puts them, Then both pin the blob, and nothing of the upload is left
    assert RedisBlobStore(repeating, prefix="p:").put(DATA, owner="slow") == BLOB_ID
    assert sorted(store.owners()) == ["quick", "slow"]
    assert not server.client.keys("p:staging:*")
