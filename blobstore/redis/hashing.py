"""SHA-256 of what comes in pieces, taken beside its coming."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self


class BesideHash:
    """Hashes in a thread, which leaves the GIL to whoever fetches the next pieces; never more than one call behind."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._thread = ThreadPoolExecutor(1)
        self._behind: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()

    def update(self, pieces: Iterable[bytes], *, last: bool) -> None:
        """Add `pieces`; the last ones are hashed at once, so that a single call needs no thread."""
        if self._behind is not None:
            self._behind.result()
        if last:
            self._add(pieces)
        else:
            self._behind = self._thread.submit(self._add, pieces)

    def hexdigest(self) -> str:
        """The hash of all pieces, once the last ones came."""
        return self._hash.hexdigest()

    def _add(self, pieces: Iterable[bytes]) -> None:
        for piece in pieces:
            self._hash.update(piece)
