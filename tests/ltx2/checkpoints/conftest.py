"""A hub to fetch from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ltx2.checkpoints.hub_server import Hub, use_hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub(tmp_path / "repository")
    use_hub(hub.server.server_port, tmp_path, monkeypatch)
    yield hub
    hub.server.shutdown()
    hub.server.server_close()
