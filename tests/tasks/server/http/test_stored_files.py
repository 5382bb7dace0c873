"""Files that are larger than what is sent at once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from tasks.server.http.stored_files import StoredFile

SIZE = StoredFile.chunk_size


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_file_is_sent_whole_and_in_parts(tmp_path: Path, in_memory: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a file of several chunks, which the kernel has in memory or has not
    data = os.urandom(2 * SIZE + 7)
    path = tmp_path / "film"
    path.write_bytes(data)

    def not_at_once(*_: Any) -> int:
        raise BlockingIOError

    if not in_memory:
        monkeypatch.setattr(os, "preadv", not_at_once)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await StoredFile(path.open("rb"), media_type="video/mp4")(scope, receive, send)

    client = TestClient(app)
    # Then any part of it is what was asked for
    assert client.get("/").content == data
    for first, last in ((0, SIZE - 1), (0, SIZE), (SIZE - 1, 2 * SIZE), (1, 2 * SIZE + 6), (2 * SIZE + 6, 9 * SIZE)):
        answer = client.get("/", headers={"Range": f"bytes={first}-{last}"})
        assert (answer.status_code, answer.content) == (206, data[first : last + 1])
    several = client.get("/", headers={"Range": f"bytes=1-2,{SIZE + 1}-{2 * SIZE}"})
    assert data[SIZE + 1 : 2 * SIZE + 1] in several.content
