"""Blobs, and what is made of them, as files, for answers that can be read in parts: a cache on disk of bounded size."""

from __future__ import annotations

import hashlib
import os
import threading
from contextlib import suppress
from pathlib import Path

from blobstore import BlobStore

MOST_BYTES = 4 * 1024**3


class BlobFiles:
    """Copies of blobs in a folder. The oldest are deleted when there is too much; open ones can still be read."""

    def __init__(self, folder: Path, blobs: BlobStore, most_bytes: int = MOST_BYTES) -> None:
        """folder: exists, private, and is used by nothing else."""
        self._folder = folder
        self._blobs = blobs
        self._most_bytes = most_bytes
        self._lock = threading.Lock()

    def path_of(self, blob_id: str) -> Path:
        """The file with the bytes of a blob.

        Raises:
            BlobNotFoundError, BlobCorruptError: it is missing or damaged. BlobStoreError: the store cannot be reached.
        """
        path = self._place(blob_id)
        with suppress(FileNotFoundError):
            os.utime(path)
            return path  # without the lock: another one may be fetched for long
        with self._lock:
            if not path.exists():
                self._write(path, self._blobs.get(blob_id))
        return path

    def kept(self, name: str) -> Path | None:
        """The file that was kept under a name, if it is still there."""
        path = self._place(name)
        return path if path.exists() else None

    def keep(self, name: str, data: bytes) -> Path:
        """Keep data under a name that is no blob id, as long as there is room."""
        path = self._place(name)
        with self._lock:
            self._write(path, data)
        return path

    def _place(self, name: str) -> Path:
        return self._folder / hashlib.sha256(name.encode()).hexdigest()

    def _write(self, path: Path, data: bytes) -> None:
        part = path.with_suffix(".part")
        part.write_bytes(data)
        part.rename(path)
        self._evict(keep=path)

    def _evict(self, keep: Path) -> None:
        files = sorted(self._folder.iterdir(), key=lambda file: file.stat().st_mtime)
        total = sum(file.stat().st_size for file in files)
        for file in files:
            if total <= self._most_bytes:
                return
            if file != keep:
                total -= file.stat().st_size
                file.unlink()
