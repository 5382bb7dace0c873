"""A blob store on a Redis server (6.2 or newer, not a Redis Cluster).

One hash per blob holds its chunks and its manifest, so that a blob expires, moves and is removed as a whole. An upload
writes to a staging hash and reads it back; then one script checks and renames it, so that no partial blob exists.
Every read is verified.
The scripts in `lua/` do what must be atomic, and can be repeated after a lost reply. `lua/prelude.lua` lists the keys.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar, cast

import redis
from redis.client import Pipeline

from blobstore.manifest import Manifest, NewerManifestError
from blobstore.protocol import (
    DEFAULT_MIME,
    DEFAULT_PIN_LEASE_S,
    DEFAULT_TTL_S,
    BlobCorruptError,
    BlobInfo,
    BlobStore,
    BlobStoreConfigError,
    BlobStoreUnavailableError,
    BlobStoreVersionError,
    Collected,
    Data,
    OwnedBlobStore,
    blob_id_of,
    check_grace,
    hex_of,
    id_of_hex,
    is_blob_id,
    not_found,
)
from blobstore.redis.chunks import STAGING_MS, Chunks
from blobstore.redis.client import server_of
from blobstore.redis.errors import is_out_of_memory, translated_errors
from blobstore.redis.outages import PROBE_KEY
from blobstore.redis.scripts import Scripts
from blobstore.redis.server_info import server_info
from blobstore.stored_format import MAJOR

DEFAULT_PREFIX = "longtake:"
CHUNK_BYTES = 1024 * 1024 - 64  # with Redis's header it uses 1 MiB of memory; a whole MiB would use 1.25
BLOBS_PER_SCRIPT = 1000
KEYS_PER_SCAN = 1000
QUARANTINE_MS = 24 * 3600 * 1000
PROVEN_S = 10.0  # a write proves for so long that the next one is possible, unless the server fails meanwhile

T = TypeVar("T")


class RedisBlobStore:
    """A `ManagedBlobStore` on the server of `client`, which must not decode responses.

    prefix: the start of all its keys. ttl_s, pin_lease_s: see `ManagedBlobStore`. chunk_bytes: 1 .. 512 MiB; blobs
    stored with another chunk size stay readable. Thread-safe, and usable after a fork.
    """

    def __init__(
        self,
        client: redis.Redis,
        *,
        prefix: str = DEFAULT_PREFIX,
        ttl_s: float = DEFAULT_TTL_S,
        pin_lease_s: float = DEFAULT_PIN_LEASE_S,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self._redis = client
        self._chunks = Chunks(client)
        self._prefix = prefix
        self._ttl_ms = round(ttl_s * 1000)
        self._pin_lease_ms = round(pin_lease_s * 1000)
        self._chunk_bytes = chunk_bytes
        self._scripts = Scripts(client)
        self._written = float("-inf")

    def put(self, data: Data, *, mime: str = DEFAULT_MIME, owner: str | None = None) -> str:
        """See `ManagedBlobStore.put`. Bytes that are stored already are read back instead of sent."""
        blob_id = blob_id_of(data)
        view = memoryview(data).cast("B")
        manifest = Manifest(size=view.nbytes, mime=mime, chunk_bytes=self._chunk_bytes)
        with translated_errors(self._redis), self._staging() as staging:
            while (first := self._begin(blob_id, manifest, view, staging)) is None:
                # verify first: when a damaged blob cannot be replaced on a full server, no pin may stay
                if self._scripts.run("hold", self._hold_keys(blob_id, owner), self._hold_args(blob_id, owner)):
                    break
            else:
                first = first or self._chunks.write(staging, manifest, view)
                self._check_upload(blob_id, manifest, view, staging, first)
                args = [*self._hold_args(blob_id, owner), manifest.pack(), manifest.size, manifest.chunk_bytes]
                if not self._scripts.run("commit", [staging, *self._hold_keys(blob_id, owner)], args):
                    raise self._lost_part(blob_id)
        self._written = time.monotonic()
        return blob_id

    def get(self, blob_id: str) -> bytes:
        """See `BlobStore.get`. A corrupt blob is quarantined for a day."""
        with translated_errors(self._redis):
            return self._verified(blob_id, self._read)

    def drop(self, blob_id: str) -> None:
        """See `BlobStore.drop`."""
        if is_blob_id(blob_id):
            with translated_errors(self._redis):
                if not self._scripts.run("drop", [self._key("blob", hex_of(blob_id))], [MAJOR]):
                    raise _version_error(blob_id)

    def __contains__(self, blob_id: object) -> bool:
        if not is_blob_id(blob_id):
            return False
        with translated_errors(self._redis):
            return bool(self._redis.hexists(self._key("blob", hex_of(blob_id)), "manifest"))

    def pin(self, blob_ids: Iterable[str], owner: str, *, provisional: bool = False) -> None:
        """See `ManagedBlobStore.pin`."""
        wanted = list(dict.fromkeys(blob_ids))
        if not all(is_blob_id(blob_id) for blob_id in wanted):
            raise not_found(blob_id for blob_id in wanted if blob_id not in self)
        hexes = [hex_of(blob_id) for blob_id in wanted]
        keys = [self._key("owner", owner)]
        for blob_hex in hexes:
            keys += [self._key("blob", blob_hex), self._key("pins", blob_hex)]
        lease_ms = self._pin_lease_ms if provisional else 0
        with translated_errors(self._redis):
            missing = cast("list[bytes]", self._scripts.run("pin", keys, [owner, lease_ms, self._ttl_ms, *hexes]))
        self._written = time.monotonic()
        if missing:
            raise not_found(id_of_hex(blob_hex.decode()) for blob_hex in missing)

    def release(self, owner: str) -> int:
        """See `ManagedBlobStore.release`. Other clients are served in between; after an error, release again."""
        args: list[str | int] = [owner, self._ttl_ms, self._key("blob", ""), self._key("pins", ""), BLOBS_PER_SCRIPT]
        released = 0
        with translated_errors(self._redis):
            while True:
                count = cast("int", self._scripts.run("release", [self._key("owner", owner)], args))
                released += count
                if count < BLOBS_PER_SCRIPT:
                    return released

    def owners(self) -> Iterator[str]:
        """See `ManagedBlobStore.owners`."""
        with translated_errors(self._redis):
            return iter({owner for names in self._names("owner") for owner in names})

    def pins(self, owner: str) -> set[str]:
        """See `ManagedBlobStore.pins`."""
        with translated_errors(self._redis):
            return {id_of_hex(blob_hex) for blob_hex in self._pinned(owner)}

    def usage(self, owner: str) -> int:
        """See `ManagedBlobStore.usage`. Other clients are served in between."""
        with translated_errors(self._redis):
            blobs = [self._key("blob", blob_hex) for blob_hex in self._pinned(owner)]
            batches = [blobs[first : first + BLOBS_PER_SCRIPT] for first in range(0, len(blobs), BLOBS_PER_SCRIPT)]
            return sum(cast("int", self._scripts.run("usage", batch, [])) for batch in batches)

    def collect(self, *, grace_s: float, dry_run: bool = False) -> Collected:
        """See `ManagedBlobStore.collect`. Other clients are served in between. Foreign keys are left unchanged."""
        check_grace(grace_s, self._ttl_ms / 1000)
        limits = [round(grace_s * 1000), int(dry_run), MAJOR]
        with translated_errors(self._redis):
            for kind in () if dry_run else ("pins", "owner"):
                for names in self._names(kind):
                    self._scripts.run_each("forget", [[self._key(kind, name)] for name in names], [])
            if not dry_run:
                self._free(["staging"], [STAGING_MS, STAGING_MS, 0, MAJOR])  # only sets missing expiries
            blobs = self._free(["blob", "pins"], [self._ttl_ms, *limits])
            quarantined = self._free(["quarantine"], [QUARANTINE_MS, *limits])
        return Collected(len(blobs), sum(blobs.values()), len(quarantined), sum(quarantined.values()))

    def info(self, blob_id: str) -> BlobInfo:
        """See `ManagedBlobStore.info`."""
        with translated_errors(self._redis):
            manifest = self._manifest(blob_id)[1]
        return BlobInfo(blob_id, manifest.size, manifest.mime)

    def owned_by(self, owner: str) -> BlobStore:
        """See `ManagedBlobStore.owned_by`."""
        return OwnedBlobStore(self, owner)

    def check(self) -> None:
        """Check that the server takes writes, that this user may run the scripts, and that no live key can be evicted.

        Raises:
            BlobStoreUnavailableError: the server cannot be reached, or takes no writes. BlobStoreError: the user has
            too few rights. BlobStoreConfigError: it is a Redis Cluster, or its eviction policy is not `noeviction`.
            The policy is not checked where INFO is forbidden.
        """
        with translated_errors(self._redis):
            info = server_info(self._redis)
        if info.is_cluster:
            raise BlobStoreConfigError(
                f"Redis at {self._address()} is a Redis Cluster, which cannot run scripts on the keys of a blob; "
                "use one server, or Sentinel for failover"
            )
        # volatile policies also evict blobs in use: a provisional pin is a key that expires
        if info.eviction not in ("", "noeviction"):
            raise BlobStoreConfigError(
                f"Redis at {self._address()} has maxmemory-policy {info.eviction}, which can drop blobs in use; "
                "set maxmemory-policy to noeviction"
            )
        with translated_errors(self._redis):
            empty = blob_id_of(b"")
            self._scripts.run("hold", self._hold_keys(empty, None), self._hold_args(empty, None))
            self._redis.scan(match=self._prefix, count=1)  # `collect` and `owners` look for keys
        self.check_writable()

    def check_writable(self) -> None:
        """See `ManagedBlobStore.check_writable`: writes one small key, which expires."""
        health = self._redis.connection_pool.connection_kwargs.get("health")
        if health and not health.is_out and time.monotonic() - self._written < PROVEN_S:
            return
        with translated_errors(self._redis):
            self._redis.set(self._prefix + PROBE_KEY.partition(":")[2], "", px=1000)

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        self._redis.close()

    @contextmanager
    def _staging(self) -> Iterator[str]:
        """The key of an upload, which is removed after an error."""
        key = self._key("staging", uuid.uuid4().hex)
        try:
            yield key
        except BaseException as error:
            # the chunks would stay until they expire; in an outage they must, as this call has waited long enough
            if not isinstance(error, (redis.ConnectionError, redis.TimeoutError)):
                with suppress(redis.RedisError):
                    self._redis.unlink(key)
            raise

    def _begin(self, blob_id: str, manifest: Manifest, data: memoryview, staging: str) -> list[bytes | None] | None:
        """Begin an upload; None if `data` is stored already. A corrupt blob is quarantined first.

        A blob of one chunk is written at once, and read back; returns what was read.
        """
        key = self._key("blob", hex_of(blob_id))
        at_once = manifest.chunks <= 1

        def queue(pipe: Pipeline) -> None:
            if at_once:  # before the script, which removes it if the blob is stored
                self._chunks.queue_write(pipe, staging, manifest, data)
            self._scripts.queue(pipe, "begin", [key, staging], [STAGING_MS])
            self._chunks.queue_first(pipe, key)

        while True:
            try:
                *written, packed, first = self._scripts.pipelined("begin", queue)
            except redis.RedisError as error:
                if not at_once or not is_out_of_memory(error):
                    raise
                at_once = False  # a full server takes bytes that it has
                continue
            if packed is None:
                return written[-1] if written else []
            found = self._unpacked(blob_id, packed)
            if found is not None and self._is_stored(key, found, data, first):
                return None
            with suppress(BlobCorruptError):
                self._quarantine(blob_id, packed)

    def _is_stored(self, key: str, manifest: Manifest, data: memoryview, first: list[bytes | None]) -> bool:
        return manifest.size == data.nbytes and self._chunks.differing(key, manifest, data, first) is None

    def _read(self, key: str, manifest: Manifest) -> bytes | None:
        """The bytes of the blob under `key`, or None if they do not match its id."""
        if self._scripts.run("usage", [key], []) != manifest.size:  # a manifest can be wrong
            return None
        data, digest = self._chunks.read(key, manifest) or (b"", "")
        return data if key == self._key("blob", digest) else None

    def _check_upload(
        self, blob_id: str, manifest: Manifest, data: memoryview, staging: str, first: list[bytes | None]
    ) -> None:
        differing = self._chunks.differing(staging, manifest, data, first)
        if differing is None:
            return
        if self._redis.hexists(staging, str(differing)):
            raise BlobCorruptError(f"chunk {differing} of {blob_id} was damaged on the way to {self._address()}")
        raise self._lost_part(blob_id)

    def _lost_part(self, blob_id: str) -> BlobStoreUnavailableError:
        return BlobStoreUnavailableError(f"{self._address()} lost a part of {blob_id} during its upload")

    def _verified(self, blob_id: str, read: Callable[[str, Manifest], T | None]) -> T:
        """The result of `read` for a blob's key and manifest. If it is None, the blob is corrupt and is quarantined.

        Raises BlobNotFoundError, BlobCorruptError, BlobStoreVersionError.
        """
        while True:
            packed, manifest = self._manifest(blob_id)
            found = read(self._key("blob", hex_of(blob_id)), manifest)
            if found is not None:
                return found
            self._quarantine(blob_id, packed)
            # dropped or replaced during the read: try again

    def _manifest(self, blob_id: str) -> tuple[bytes, Manifest]:
        """The manifest of a blob, as stored and unpacked.

        Raises BlobNotFoundError, BlobCorruptError, BlobStoreVersionError.
        """
        while is_blob_id(blob_id):
            packed = cast("bytes | None", self._redis.hget(self._key("blob", hex_of(blob_id)), "manifest"))
            if packed is None:
                break
            manifest = self._unpacked(blob_id, packed)
            if manifest is not None:
                return packed, manifest
            self._quarantine(blob_id, packed)
        raise not_found([blob_id])

    def _unpacked(self, blob_id: str, packed: bytes) -> Manifest | None:
        """The manifest, or None if it is damaged. Raises BlobStoreVersionError."""
        try:
            return Manifest.unpack(packed)
        except NewerManifestError:
            raise _version_error(blob_id) from None
        except ValueError:
            return None

    def _quarantine(self, blob_id: str, packed: bytes) -> None:
        """Quarantine a corrupt blob and raise BlobCorruptError; do nothing if it was dropped or replaced."""
        keys = [self._key("blob", hex_of(blob_id)), self._key("quarantine", hex_of(blob_id))]
        if self._scripts.run("quarantine", keys, [packed, QUARANTINE_MS]):
            raise BlobCorruptError(f"{blob_id} is damaged in the store; moved to {keys[1]}, put it again")

    def _free(self, kinds: list[str], args: list[int]) -> dict[str, int]:
        """Run `collect` on all keys of the first kind, each with its keys of the other kinds. Returns bytes by hex."""
        freed: dict[str, int] = {}
        for hexes in self._names(kinds[0]):
            keys = [[self._key(kind, blob_hex) for kind in kinds] for blob_hex in hexes]
            sizes = cast("list[int | None]", self._scripts.run_each("collect", keys, args))
            freed.update({blob_hex: size for blob_hex, size in zip(hexes, sizes, strict=True) if size is not None})
        return freed

    def _names(self, kind: str) -> Iterator[list[str]]:
        """The names of all keys of a kind, in batches; a name can occur twice. Foreign names are left out."""
        start = self._key(kind, "")
        pattern = re.sub(r"([*?\[\]\\])", r"\\\1", start) + "*"
        cursor = 0
        while True:
            cursor, keys = cast("tuple[int, list[bytes]]", self._redis.scan(cursor, match=pattern, count=KEYS_PER_SCAN))
            names = []
            for key in keys:
                with suppress(UnicodeDecodeError):
                    names.append(key.decode().removeprefix(start))
            yield [name for name in names if kind in ("owner", "staging") or is_blob_id(id_of_hex(name))]
            if cursor == 0:
                return

    def _pinned(self, owner: str) -> list[str]:
        """The hashes that `owner` has pinned, in hex."""
        seconds, micros = self._redis.time()
        now = seconds * 1000 + micros // 1000
        hexes = cast("list[bytes]", self._redis.zrangebyscore(self._key("owner", owner), f"({now}", "+inf"))
        return [blob_hex.decode() for blob_hex in hexes]

    def _hold_keys(self, blob_id: str, owner: str | None) -> list[str]:
        keys = [self._key("blob", hex_of(blob_id)), self._key("pins", hex_of(blob_id))]
        return keys if owner is None else [*keys, self._key("owner", owner)]

    def _hold_args(self, blob_id: str, owner: str | None) -> list[str | int]:
        return [hex_of(blob_id), self._ttl_ms, self._pin_lease_ms, owner or ""]

    def _key(self, kind: str, name: str) -> str:
        return f"{self._prefix}{kind}:{name}"

    def _address(self) -> str:
        return server_of(self._redis)


def _version_error(blob_id: str) -> BlobStoreVersionError:
    return BlobStoreVersionError(f"blob {blob_id}: written by a newer longtake; upgrade this worker")
