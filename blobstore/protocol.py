"""The protocols, ids and errors of blob stores.

BlobStoreError
├── BlobNotFoundError         no such blob (also a KeyError)
├── BlobCorruptError          bytes that do not match their id; the store removed them, put the blob again
├── BlobStoreFullError        no space; the caller may retry after something was freed
├── BlobStoreUnavailableError the server cannot be reached or lost an upload; the caller may retry
├── BlobStoreVersionError     written by a newer major version; the blob is unchanged
└── BlobStoreConfigError      an invalid URL, server setting or grace period (also a ValueError)
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeGuard, runtime_checkable

DEFAULT_MIME = "application/octet-stream"
DEFAULT_TTL_S = 24 * 3600.0
DEFAULT_PIN_LEASE_S = 3600.0

Data = bytes | bytearray | memoryview

_SCHEME = "sha256:"
_BLOB_ID = re.compile(_SCHEME + "[0-9a-f]{64}")


class BlobStoreError(Exception):
    """Base class of all errors of blob stores."""


class BlobNotFoundError(BlobStoreError, KeyError):
    """The store has no such blob; the message names every missing one."""

    # KeyError shows the message in quotes
    __str__ = Exception.__str__


class BlobCorruptError(BlobStoreError):
    """Stored or received bytes do not match their id. The store no longer has the blob; put it again."""


class BlobStoreFullError(BlobStoreError):
    """The store has no space for the blob; no part of it is stored."""


class BlobStoreUnavailableError(BlobStoreError):
    """The store cannot be used now; the message names its address, never its password."""


class BlobStoreVersionError(BlobStoreError):
    """A newer major version of longtake wrote the blob. The call changed nothing."""


class BlobStoreConfigError(BlobStoreError, ValueError):
    """An invalid URL, server setting or grace period; the message says what is valid."""


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """A stored blob without its bytes. size: bytes. mime: that of the first put."""

    blob_id: str
    size: int
    mime: str


@dataclass(frozen=True, slots=True)
class Collected:
    """What `collect` freed: unpinned blobs and quarantined ones, with their bytes."""

    blobs: int
    bytes: int
    quarantined: int = 0
    quarantined_bytes: int = 0


def blob_id_of(data: Data) -> str:
    """The id of `data`: `sha256:` and its SHA-256 in 64 lower-case hex digits."""
    return id_of_hex(hashlib.sha256(data).hexdigest())


def is_blob_id(text: object) -> TypeGuard[str]:
    """Whether `text` has the form of the ids of `blob_id_of`."""
    return isinstance(text, str) and _BLOB_ID.fullmatch(text) is not None


def hex_of(blob_id: str) -> str:
    """The hash in a valid blob id, in hex."""
    return blob_id.removeprefix(_SCHEME)


def id_of_hex(digest: str) -> str:
    """The blob id of a hash in hex, the inverse of `hex_of`."""
    return _SCHEME + digest


@runtime_checkable
class BlobStore(Protocol):
    """Content-addressed bytes: what an encoder or decoder needs."""

    def put(self, data: Data, *, mime: str = DEFAULT_MIME) -> str:
        """Store `data` and return its id. A stored blob keeps its mime type; damaged bytes are replaced.

        Raises:
            BlobStoreFullError: there is no space. BlobStoreUnavailableError: the server cannot be used.
            BlobStoreVersionError: a newer version wrote it. BlobCorruptError: damaged on the way to the store.
        """
        ...

    def get(self, blob_id: str) -> bytes:
        """The bytes of a blob, verified against its id.

        Raises:
            BlobNotFoundError: it is missing, or `blob_id` is not a blob id. BlobCorruptError: it is damaged.
            BlobStoreVersionError: a newer version wrote it. BlobStoreUnavailableError: the server cannot be used.
        """
        ...

    def drop(self, blob_id: str) -> None:
        """Remove a blob at once, pinned or not; a missing blob is not an error. Its pins stay, for a later put.

        Raises:
            BlobStoreVersionError: a newer version wrote it.
        """
        ...

    def __contains__(self, blob_id: object) -> bool:
        """Whether the store has a blob; False for anything that is not a blob id."""
        ...


class ManagedBlobStore(BlobStore, Protocol):
    """A blob store with pins, which keep blobs for their owners.

    An unpinned blob expires `ttl_s` seconds after its last put or release. A pin keeps it longer: a provisional pin,
    such as a put for an owner makes, for `pin_lease_s`; a committed pin until its owner is released. Pins refer to ids:
    they stay when the bytes are dropped or found corrupt.
    """

    def put(self, data: Data, *, mime: str = DEFAULT_MIME, owner: str | None = None) -> str:
        """Like `BlobStore.put`; with an owner, also pin the blob provisionally."""
        ...

    def pin(self, blob_ids: Iterable[str], owner: str, *, provisional: bool = False) -> None:
        """Commit pins of all these blobs, or of none; or pin them provisionally, which lowers no committed pin.

        Raises:
            BlobNotFoundError: names all missing blobs.
        """
        ...

    def release(self, owner: str) -> int:
        """Remove all pins of `owner` and return their number. Blobs without another pin expire after `ttl_s`."""
        ...

    def owners(self) -> Iterator[str]:
        """All owners with a pin, each once, in any order."""
        ...

    def pins(self, owner: str) -> set[str]:
        """The ids that `owner` has pinned, provisionally or committed."""
        ...

    def usage(self, owner: str) -> int:
        """Bytes of all blobs that `owner` has pinned, provisionally or committed; missing blobs count 0."""
        ...

    def collect(self, *, grace_s: float, dry_run: bool = False) -> Collected:
        """Free blobs that are unpinned and were not put or released in the last `grace_s`, and return what was freed.

        Pins are checked in the moment a blob is freed, so a blob put for an owner is never lost. A caller that puts
        without an owner and pins later needs a grace period longer than the time in between. Quarantined blobs are
        freed after the same grace period; expired pins are removed. A blob without a pin or an expiry, whose pins were
        lost, gets the expiry of an unpinned blob. A blob of a newer major version stays. A dry run returns the same
        and changes nothing.

        Raises:
            BlobStoreConfigError: `grace_s` is not 0 .. `ttl_s`.
        """
        ...

    def info(self, blob_id: str) -> BlobInfo:
        """Size and mime type of a blob; its bytes are not read.

        Raises:
            BlobNotFoundError: it is missing. BlobCorruptError: its manifest is damaged.
            BlobStoreVersionError: a newer version wrote it.
        """
        ...

    def owned_by(self, owner: str) -> BlobStore:
        """A view of this store for `owner`: the same blobs, and every put pins provisionally."""
        ...

    def check(self) -> None:
        """Check that the store can be used.

        Raises:
            BlobStoreUnavailableError: the server cannot be reached, or takes no writes.
            BlobStoreConfigError: a server setting is wrong; says what to set.
        """
        ...

    def check_writable(self) -> None:
        """Check that a put would be taken now: at the cost of one small write, unless another one was just taken.

        Raises:
            BlobStoreUnavailableError: the server cannot be reached, or takes no writes.
            BlobStoreFullError: it is full.
        """
        ...

    def close(self) -> None:
        """Close the connections; blobs stay stored."""
        ...


class OwnedBlobStore:
    """A view of `store` for `owner`; see `ManagedBlobStore.owned_by`."""

    def __init__(self, store: ManagedBlobStore, owner: str) -> None:
        self._store = store
        self._owner = owner

    def put(self, data: Data, *, mime: str = DEFAULT_MIME) -> str:
        """Store `data`, pinned provisionally for the owner."""
        return self._store.put(data, mime=mime, owner=self._owner)

    def get(self, blob_id: str) -> bytes:
        """The bytes of a blob."""
        return self._store.get(blob_id)

    def drop(self, blob_id: str) -> None:
        """Remove a blob."""
        self._store.drop(blob_id)

    def __contains__(self, blob_id: object) -> bool:
        return blob_id in self._store


def check_grace(grace_s: float, ttl_s: float) -> None:
    """Refuse a grace period that is not 0 .. `ttl_s`.

    Raises:
        BlobStoreConfigError: names both values.
    """
    if not 0 <= grace_s <= ttl_s:
        raise BlobStoreConfigError(
            f"grace_s is {grace_s}; it must be 0 .. {ttl_s:g} (ttl_s), after which unpinned blobs have expired"
        )


def not_found(blob_ids: Iterable[str]) -> BlobNotFoundError:
    """The error for missing blobs; the ids may be malformed."""
    return BlobNotFoundError("no such blob: " + ", ".join(str(blob_id)[:80] for blob_id in blob_ids))
