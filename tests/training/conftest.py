"""The untrained small model, as a folder and as an engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltx2.engine import Engine
from training.model import build


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("untrained") / "model"
    build().save(folder)
    return folder


@pytest.fixture(scope="session")
def engine(untrained: Path) -> Engine:
    return Engine.load(str(untrained), device="cpu")
