"""The manifest of a blob: how it is split into chunks. Pure: no I/O."""

from __future__ import annotations

import uuid
from dataclasses import asdict, dataclass, field, fields

import msgpack

from blobstore.stored_format import FORMAT, is_newer_major


class NewerManifestError(Exception):
    """The manifest has a newer major version, which this code cannot read."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is known of a stored blob without its bytes.

    size: bytes of the blob, at least 0. chunk_bytes: bytes of each chunk, at least 1; the last chunk may be shorter.
    upload: random, to distinguish two uploads of the same blob.
    """

    size: int
    mime: str
    chunk_bytes: int
    upload: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        if type(self.size) is not int or self.size < 0:
            raise ValueError(f"size is {self.size!r}; it must be an integer of at least 0")
        if type(self.chunk_bytes) is not int or self.chunk_bytes < 1:
            raise ValueError(f"chunk_bytes is {self.chunk_bytes!r}; it must be an integer of at least 1")
        if not isinstance(self.mime, str) or not isinstance(self.upload, str):
            raise ValueError(f"mime and upload are {self.mime!r} and {self.upload!r}; they must be text")

    @property
    def chunks(self) -> int:
        """Number of chunks; an empty blob has none."""
        return -(-self.size // self.chunk_bytes)

    def span(self, index: int) -> slice:
        """The position of chunk `index`, 0 .. chunks - 1, in the blob."""
        first = index * self.chunk_bytes
        return slice(first, first + self.length(index))

    def length(self, index: int) -> int:
        """Bytes of chunk `index`."""
        return min(self.chunk_bytes, self.size - index * self.chunk_bytes)

    def pack(self) -> bytes:
        """This manifest in msgpack, with the format version."""
        return bytes(msgpack.packb({"format": FORMAT, **asdict(self)}))

    @classmethod
    def unpack(cls, data: bytes) -> Manifest:
        """The manifest in `data`; unknown keys are ignored.

        Raises:
            NewerManifestError: a newer major version wrote it.
            ValueError: `data` is not a manifest.
        """
        try:
            stored = msgpack.unpackb(data)
            if not isinstance(stored, dict):
                raise ValueError("not a mapping")
            if is_newer_major(stored.get("format")):
                raise NewerManifestError(stored["format"])
            return cls(**{each.name: stored[each.name] for each in fields(cls)})
        except KeyError as error:
            raise ValueError(f"not a manifest: {error} is missing") from None
        except ValueError as error:
            raise ValueError(f"not a manifest: {error}") from None
