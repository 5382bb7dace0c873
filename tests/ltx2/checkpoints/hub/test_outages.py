"""A hub that cannot be reached, for a while or for longer."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest

from ltx2.checkpoints.hub import outages
from ltx2.checkpoints.hub.fetching import fetch_folder, fetch_model
from ltx2.checkpoints.resolve import HubModel
from ltx2.errors import CheckpointError, HubUnreachableError
from tests.conftest import free_port
from tests.ltx2.checkpoints.hub.hub_server import Hub, use_hub


class StartHub(logging.Handler):
    """Starts a hub at the first line that is logged."""

    def __init__(self, folder: Path, port: int) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._where = folder, port

    def emit(self, record: logging.LogRecord) -> None:
        if not self.lines:
            self.hub = Hub(*self._where)
        self.lines.append(record.getMessage())


def test_a_hub_that_is_out_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a hub that cannot be reached until somebody waits for it
    port, folder = free_port(), tmp_path / "repository"
    use_hub(port, tmp_path, monkeypatch)
    monkeypatch.setattr(outages, "FIRST_PAUSE_S", 0.01)
    (folder / "latent_upsampler").mkdir(parents=True)
    (folder / "latent_upsampler/config.json").write_text("{}")
    starts = StartHub(folder, port)
    outages.log.addHandler(starts)
    # When
    try:
        found = fetch_folder(HubModel("owner/name"), "latent_upsampler")
    finally:
        outages.log.removeHandler(starts)
        starts.hub.server.shutdown()
        starts.hub.server.server_close()
    # Then
    assert (found / "latent_upsampler/config.json").read_text() == "{}"
    assert [line.partition(":")[0].partition(" after")[0] for line in starts.lines] == [
        "the hub cannot be reached, waiting for it",
        "the hub can be reached again",
    ]


def test_a_hub_that_stays_out_is_an_error_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_hub(free_port(), tmp_path, monkeypatch)
    monkeypatch.setattr(outages, "PATIENCE_S", 0.0)
    with pytest.raises(HubUnreachableError, match="cannot fetch owner/name: "):
        fetch_model(HubModel("owner/name"))
    # but where the hub is switched off, nothing is waited for
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError) as caught:
        fetch_model(HubModel("owner/name"))
    assert type(caught.value) is CheckpointError


def test_a_model_in_the_cache_needs_no_hub(hub: Hub, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a model that was fetched
    shutil.copytree(models["tiny"], hub.folder)
    fetched = fetch_model(HubModel("owner/name"))
    # When the hub cannot be reached any more
    hub.server.shutdown()
    hub.server.server_close()
    monkeypatch.setattr(outages, "PATIENCE_S", 0.0)
    # Then
    assert fetch_model(HubModel("owner/name")) == fetched
