"""Copies of blobs on the server's disk."""

from __future__ import annotations

import asyncio
import shutil
import threading
from pathlib import Path
from typing import Any

from blobstore import InMemoryBlobStore
from tasks.server.films.blob_files import BlobFiles
from tasks.server.http.stored_files import StoredFile


class SlowStore(InMemoryBlobStore):
    """A store whose reads wait until `go` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.is_asked = threading.Event()

    def get(self, blob_id: str) -> bytes:
        self.is_asked.set()
        assert self.go.wait(60)
        return super().get(blob_id)


def read(files: BlobFiles, blob_id: str) -> bytes:
    with files.opened(blob_id) as file:
        return file.read()


def answered(file: StoredFile) -> tuple[int, bytes]:
    """The status and the bytes that a client gets."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return await asyncio.Event().wait()

    scope = {"type": "http", "method": "GET", "headers": [], "asgi": {"spec_version": "2.4"}}
    asyncio.run(file(scope, receive, send))  # type: ignore[arg-type]
    return sent[0]["status"], b"".join(message["body"] for message in sent[1:])


def test_a_file_on_disk_does_not_wait_for_another_one(tmp_path: Path) -> None:
    # Given one blob on disk, and another one that is being fetched
    store = SlowStore()
    known, other = (store.put(data, mime="video/mp4") for data in (b"known", b"other"))
    files = BlobFiles(tmp_path, store)
    store.go.set()
    files.opened(known).close()
    store.go.clear()
    store.is_asked.clear()
    fetching = threading.Thread(target=lambda: files.opened(other).close(), daemon=True)
    fetching.start()
    assert store.is_asked.wait(60)
    # When / Then
    found: list[bytes] = []
    asking = threading.Thread(target=lambda: found.append(read(files, known)), daemon=True)
    asking.start()
    asking.join(60)
    assert found == [b"known"]
    store.go.set()
    fetching.join(60)
    assert read(files, other) == b"other"


def test_the_oldest_files_are_deleted(tmp_path: Path) -> None:
    # Given room for two files, and an answer with the first of three that was not sent yet
    store = InMemoryBlobStore()
    blobs = [store.put(bytes([number]) * 100, mime="video/mp4") for number in range(3)]
    files = BlobFiles(tmp_path, store, most_bytes=200)
    waiting = StoredFile(files.opened(blobs[0]), media_type="video/mp4")
    # When the others are asked for
    for blob in blobs[1:]:
        files.opened(blob).close()
    # Then the last two are there, and the first one can still be sent
    assert len(list(tmp_path.iterdir())) == 2
    assert answered(waiting) == (200, bytes(100))
    # And it is fetched again, also when the host has deleted the whole folder
    shutil.rmtree(tmp_path)
    assert read(files, blobs[0]) == bytes(100)
