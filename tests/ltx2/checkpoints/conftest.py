"""A model in one file, and a hub to fetch from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ltx2.checkpoints.hub.hub_server import Hub, use_hub
from tests.ltx2.exported_files import single_file


@pytest.fixture
def single(models: dict[str, Path], tmp_path: Path) -> Path:
    """A 2.3 in one file, in a folder of its own."""
    (tmp_path / "single").mkdir()
    return single_file(models["tiny"], tmp_path / "single" / "ltx-2.3-distilled.safetensors")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub(tmp_path / "repository")
    use_hub(hub.server.server_port, tmp_path, monkeypatch)
    yield hub
    hub.server.shutdown()
    hub.server.server_close()
