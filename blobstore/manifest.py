"""How a blob lies in chunks, and the manifest that says so. Pure: no I/O."""

from __future__ import annotations

import uuid
from dataclasses import asdict, dataclass, field

import msgpack


@dataclass(frozen=True, slots=True)
class Manifest:
    """size: bytes of the blob, at least 0. chunk_bytes: of each chunk but the last, which may be shorter, at least 1.

    upload: random, so that two uploads of the same blob can be told apart.
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
        """How many chunks there are; an empty blob has none."""
        return -(-self.size // self.chunk_bytes)

    def span(self, index: int) -> slice:
        """Where chunk `index`, 0 .. chunks - 1, lies in the blob."""
        first = index * self.chunk_bytes
        return slice(first, first + self.length(index))

    def length(self, index: int) -> int:
        """Bytes of chunk `index`."""
        return min(self.chunk_bytes, self.size - index * self.chunk_bytes)

    def pack(self) -> bytes:
        """This manifest in msgpack."""
        return bytes(msgpack.packb(asdict(self)))

    @classmethod
    def unpack(cls, data: bytes) -> Manifest:
        """The manifest in `data`. Raises ValueError for anything but what `pack` writes."""
        try:
            return cls(**msgpack.unpackb(data))
        except (TypeError, ValueError) as error:
            raise ValueError(f"not a manifest: {error}") from None
