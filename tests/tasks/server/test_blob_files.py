"""Copies of blobs on the server's disk."""

from __future__ import annotations

import threading
from pathlib import Path

from blobstore import InMemoryBlobStore
from tasks.server.blob_files import BlobFiles


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


def test_a_file_on_disk_does_not_wait_for_another_one(tmp_path: Path) -> None:
    # Given one blob on disk, and another one that is being fetched
    store = SlowStore()
    known, other = (store.put(data, mime="video/mp4") for data in (b"known", b"other"))
    files = BlobFiles(tmp_path, store)
    store.go.set()
    files.path_of(known)
    store.go.clear()
    store.is_asked.clear()
    fetching = threading.Thread(target=files.path_of, args=(other,), daemon=True)
    fetching.start()
    assert store.is_asked.wait(60)
    # When / Then
    found: list[Path] = []
    asking = threading.Thread(target=lambda: found.append(files.path_of(known)), daemon=True)
    asking.start()
    asking.join(60)
    assert [path.read_bytes() for path in found] == [b"known"]
    store.go.set()
    fetching.join(60)
    assert files.path_of(other).read_bytes() == b"other"


def test_the_oldest_files_are_deleted(tmp_path: Path) -> None:
    # Given room for two files
    store = InMemoryBlobStore()
    blobs = [store.put(bytes([number]) * 100, mime="video/mp4") for number in range(3)]
    files = BlobFiles(tmp_path, store, most_bytes=200)
    # When three are asked for
    paths = [files.path_of(blob) for blob in blobs]
    # Then the last one is there, and the first one is fetched again
    assert paths[2].exists()
    assert len(list(tmp_path.iterdir())) == 2
    assert files.path_of(blobs[0]).read_bytes() == bytes(100)
