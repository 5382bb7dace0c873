"""The small checkpoints, built once a session, and engines that hold them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltx2 import tiny
from ltx2.engine import Engine


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of the small checkpoints by name."""
    cache = tmp_path_factory.mktemp("models")
    return {name: tiny.ensure(cache, name) for name in tiny.VERSIONS}


@pytest.fixture(scope="session")
def engines(models: dict[str, Path]) -> dict[str, Engine]:
    """Engines on the CPU by model name; they keep nothing between segments but prompts, so tests share them."""
    return {name: Engine.load(str(folder), device="cpu") for name, folder in models.items()}


@pytest.fixture(params=list(tiny.VERSIONS))
def engine(request: pytest.FixtureRequest, engines: dict[str, Engine]) -> Engine:
    """An engine of each kind, 2.3 and 2.0."""
    return engines[request.param]
