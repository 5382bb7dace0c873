"""SHA-256 of data that arrives in pieces, computed in a thread."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self


class ThreadedHasher:
    """SHA-256 in a thread, which leaves the GIL to the caller that reads; at most one `update` is unfinished."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._thread = ThreadPoolExecutor(1)
        self._unfinished: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()

    def update(self, pieces: Iterable[bytes], *, last: bool) -> None:
        """Add `pieces`. The last ones are hashed by the caller, so that a single call starts no thread."""
        if self._unfinished is not None:
            self._unfinished.result()
        if last:
            self._add(pieces)
        else:
            self._unfinished = self._thread.submit(self._add, pieces)

    def hexdigest(self) -> str:
        """The hash of all pieces, after the last `update`."""
        return self._hash.hexdigest()

    def _add(self, pieces: Iterable[bytes]) -> None:
        for piece in pieces:
            self._hash.update(piece)
