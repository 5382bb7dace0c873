"""Blobs as files, for answers that can be read in parts: a cache on disk of bounded size."""

from __future__ import annotations

import hashlib
import os
import threading
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
        path = self._folder / hashlib.sha256(blob_id.encode()).hexdigest()
        with self._lock:
            if not path.exists():
                part = path.with_suffix(".part")
                part.write_bytes(self._blobs.get(blob_id))
                part.rename(path)
                self._evict(keep=path)
            os.utime(path)
        return path

    def _evict(self, keep: Path) -> None:
        files = sorted(self._folder.iterdir(), key=lambda file: file.stat().st_mtime)
        total = sum(file.stat().st_size for file in files)
        for file in files:
            if total <= self._most_bytes:
                return
            if file != keep:
                total -= file.stat().st_size
                file.unlink()
