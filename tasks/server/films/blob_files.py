"""Blobs, and what is made of them, as files, for answers that can be read in parts: a cache on disk of bounded size."""

from __future__ import annotations

import hashlib
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from blobstore import BlobStore

MOST_BYTES = 4 * 1024**3
FOLDERS = "longtake-server-"
"""Prefix of all temporary folders of servers; one that starts deletes those of servers that were killed."""


class BlobFiles:
    """Copies of blobs in a folder. The oldest are deleted when there is too much.

    Files are returned open, so that one that is deleted meanwhile can still be read. The caller closes them.
    """

    def __init__(self, folder: Path, blobs: BlobStore, most_bytes: int = MOST_BYTES) -> None:
        """folder: exists, private, and is used by nothing else."""
        self._folder = folder
        self._blobs = blobs
        self._most_bytes = most_bytes
        self._lock = threading.Lock()

    def opened(self, blob_id: str) -> BinaryIO:
        """The file with the bytes of a blob.

        Raises:
            BlobNotFoundError, BlobCorruptError: it is missing or damaged. BlobStoreError: the store cannot be reached.
        """
        path = self._place(blob_id)
        if (found := _opened(path)) is not None:
            return found  # without the lock: another one may be fetched for long
        with self._lock:
            return _opened(path) or self._written(path, self._blobs.get(blob_id))

    def kept(self, name: str) -> BinaryIO | None:
        """The file that was kept under a name, if it is still there."""
        return _opened(self._place(name))

    def keep(self, name: str, data: bytes) -> BinaryIO:
        """Keep data under a name that is no blob id, as long as there is room."""
        with self._lock:
            return self._written(self._place(name), data)

    def _place(self, name: str) -> Path:
        return self._folder / hashlib.sha256(name.encode()).hexdigest()

    def _written(self, path: Path, data: bytes) -> BinaryIO:
        part = path.with_suffix(".part")
        self._folder.mkdir(mode=0o700, exist_ok=True)  # hosts clean their folder for temporary files now and then
        try:
            part.write_bytes(data)
        except OSError:  # the disk is full
            part.unlink(missing_ok=True)
            raise
        part.rename(path)
        self._evict(keep=path)
        return path.open("rb")

    def _evict(self, keep: Path) -> None:
        files = sorted(self._folder.iterdir(), key=lambda file: file.stat().st_mtime)
        total = sum(file.stat().st_size for file in files)
        for file in files:
            if total <= self._most_bytes:
                return
            if file != keep:
                total -= file.stat().st_size
                file.unlink()


def _opened(path: Path) -> BinaryIO | None:
    """The file, noted as used now; None: there is none."""
    with suppress(FileNotFoundError):
        file = path.open("rb")
        os.utime(file.fileno())
        return file
    return None
