"""What INFO of a server says that an operator must know."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.maintenance.server_findings import examine_info


@pytest.mark.parametrize(
    ("info", "words"),
    [
        ({"loading": 1}, "still loads its data"),
        ({"rdb_last_bgsave_status": "err"}, "could not save its last snapshot"),
        ({"aof_last_write_status": "err"}, "could not write its append-only file"),
        ({"used_memory": 95, "total_system_memory": 100}, "uses 95 of 100 bytes of memory"),
    ],
)
def test_what_info_says(info: dict[str, Any], words: str) -> None:
    good = {"aof_enabled": 1, "role": "master", "used_memory": 1, "maxmemory": 0, "total_system_memory": 100}
    assert list(examine_info("broker", "redis://h", good)) == []
    [found] = examine_info("broker", "redis://:secret@h", good | info)
    assert str(found).startswith(f"Redis at redis://h {words}")
