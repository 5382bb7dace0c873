from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.ltx2.parallel.processes import RankProcesses


@pytest.fixture(scope="package")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankProcesses]:
    """Three processes; tests use two or three of them."""
    with RankProcesses(3, tmp_path_factory.mktemp("ranks")) as processes:
        yield processes
