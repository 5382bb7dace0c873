"""What a blob store is: its protocols, its ids and its errors.

BlobStoreError
├── BlobNotFoundError         no such blob (also a KeyError)
├── BlobCorruptError          bytes that do not match their id; they were moved aside, put the right ones again
├── BlobStoreFullError        no room; the caller may retry once something was freed
├── BlobStoreUnavailableError the server cannot be reached or lost an upload; the caller may retry
├── BlobStoreVersionError     written by a newer major version; the blob is left as it is
└── BlobStoreConfigError      a URL, a server setting or a grace that cannot be (also a ValueError)
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeGuard

DEFAULT_MIME = "application/octet-stream"
DEFAULT_TTL_S = 24 * 3600.0
DEFAULT_PIN_LEASE_S = 3600.0

Data = bytes | bytearray | memoryview

_SCHEME = "sha256:"
_BLOB_ID = re.compile(_SCHEME + "[0-9a-f]{64}")


class BlobStoreError(Exception):
    """Whatever goes wrong in a blob store."""


class BlobNotFoundError(BlobStoreError, KeyError):
    """The store has no such blob; the message names every one that is absent."""

    # KeyError would show the message in quotes
    __str__ = Exception.__str__


class BlobCorruptError(BlobStoreError):
    """Stored or received bytes do not match their id. The store no longer has the blob; a put uploads it again."""


class BlobStoreFullError(BlobStoreError):
    """The store has no room for the blob; nothing of it was kept."""


class BlobStoreUnavailableError(BlobStoreError):
    """The store cannot be reached; the message names its address, never its password."""


class BlobStoreVersionError(BlobStoreError):
    """A newer major version of this package wrote the blob. Nothing of it was changed."""


class BlobStoreConfigError(BlobStoreError, ValueError):
    """A URL, a server setting or a grace that cannot be; the message says what would be right."""


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """A stored blob without its bytes. size: bytes. mime: as given by the first put."""

    blob_id: str
    size: int
    mime: str


@dataclass(frozen=True, slots=True)
class Collected:
    """What collecting freed: blobs that nobody pinned, corrupt ones that were moved aside, and the bytes of each."""

    blobs: int
    bytes: int
    quarantined: int = 0
    quarantined_bytes: int = 0


def blob_id_of(data: Data) -> str:
    """The id of `data`: `sha256:` and its hash in 64 lower-case hex digits."""
    return id_of_hex(hashlib.sha256(data).hexdigest())


def is_blob_id(text: object) -> TypeGuard[str]:
    """Whether `text` is an id that `blob_id_of` can give; ids of other systems are not."""
    return isinstance(text, str) and _BLOB_ID.fullmatch(text) is not None


def hex_of(blob_id: str) -> str:
    """The hash in a blob id of ours."""
    return blob_id.removeprefix(_SCHEME)


def id_of_hex(digest: str) -> str:
    """The blob id of a hash in hex; the reverse of `hex_of`."""
    return _SCHEME + digest


class BlobStore(Protocol):
    """Bytes under their hash: all that an encoder or decoder needs."""

    def put(self, data: Data, *, mime: str = DEFAULT_MIME) -> str:
        """Store `data` unless it is there and whole, and return its id. The mime type of the first put is kept.

        Raises BlobStoreFullError, BlobStoreUnavailableError, BlobStoreVersionError, or BlobCorruptError when it was
        damaged on its way.
        """
        ...

    def get(self, blob_id: str) -> bytes:
        """The bytes of a blob, checked against its id.

        Raises BlobNotFoundError (also for an id of another system), BlobCorruptError, BlobStoreVersionError,
        BlobStoreUnavailableError.
        """
        ...

    def drop(self, blob_id: str) -> None:
        """Remove a blob at once, pinned or not; an absent one is fine. Its pins stay, for when it is put again.

        Raises BlobStoreVersionError.
        """
        ...

    def __contains__(self, blob_id: object) -> bool:
        """Whether the store has a blob; False for whatever is no blob id."""
        ...


class ManagedBlobStore(BlobStore, Protocol):
    """A blob store that knows who needs what.

    A blob that nobody pins lives for the store's `ttl_s` from its last put or unpinning. A pin keeps it longer: a
    provisional one, made by a put for an owner, for `pin_lease_s`; a committed one until the owner is released.
    A pin is about an id: it outlives bytes that were dropped or found corrupt.
    """

    def put(self, data: Data, *, mime: str = DEFAULT_MIME, owner: str | None = None) -> str:
        """As `BlobStore.put`; with an owner, the blob is also pinned provisionally."""
        ...

    def pin(self, blob_ids: Iterable[str], owner: str) -> None:
        """Commit pins of all these blobs, or of none.

        Raises BlobNotFoundError naming all that are absent.
        """
        ...

    def release(self, owner: str) -> int:
        """Drop every pin of `owner` and return how many there were. What nobody else pins lives for `ttl_s` more."""
        ...

    def owners(self) -> Iterator[str]:
        """Everyone who pins anything, each once, in no order."""
        ...

    def pins(self, owner: str) -> set[str]:
        """The ids that `owner` pins, provisionally or committed."""
        ...

    def usage(self, owner: str) -> int:
        """Bytes of all blobs that `owner` pins now, provisionally or committed; absent ones count nothing."""
        ...

    def collect(self, *, grace_s: float, dry_run: bool = False) -> Collected:
        """Free what nobody pins and nobody put or released in the last `grace_s`, and say how much that was.

        A put or a pin counts until the very moment a blob is freed: what was put for an owner is never lost. Who puts
        without an owner and pins later needs a grace that is longer than that takes. Corrupt blobs that were moved
        aside go after the same grace; pins that have expired are forgotten. A blob that has neither a pin nor an end
        of its life, as when its pins were lost, gets an ordinary life. A blob of a newer major version stays.
        A dry run changes nothing and says the same.

        Raises BlobStoreConfigError unless `grace_s` is 0 .. `ttl_s`.
        """
        ...

    def info(self, blob_id: str) -> BlobInfo:
        """Size and mime type of a blob, its bytes unread.

        Raises BlobNotFoundError, BlobCorruptError, BlobStoreVersionError.
        """
        ...

    def owned_by(self, owner: str) -> BlobStore:
        """This store as `owner` sees it: the same blobs, and every put pins provisionally."""
        ...

    def check(self) -> None:
        """Raise unless the store can be used: BlobStoreUnavailableError, or BlobStoreConfigError saying what to set."""
        ...

    def close(self) -> None:
        """Let go of connections; a stored blob stays."""
        ...


class OwnedBlobStore:
    """`store` as `owner` sees it, see `ManagedBlobStore.owned_by`."""

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
    """Raise BlobStoreConfigError unless `grace_s` is 0 .. `ttl_s`."""
    if not 0 <= grace_s <= ttl_s:
        raise BlobStoreConfigError(
            f"grace_s is {grace_s}; it must be 0 .. {ttl_s:g} (ttl_s), after which an unpinned blob is gone anyhow"
        )


def not_found(blob_ids: Iterable[str]) -> BlobNotFoundError:
    """The error that names `blob_ids`, ids of other systems included."""
    return BlobNotFoundError("no such blob: " + ", ".join(str(blob_id)[:80] for blob_id in blob_ids))
