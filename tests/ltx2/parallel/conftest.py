from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.ltx2.parallel.processes import RankProcesses


@pytest.fixture(scope="package")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankProcesses]:
    """Four processes; tests use the first two, three or four of them."""
    with RankProcesses(4, tmp_path_factory.mktemp("ranks")) as processes:
        yield processes
