"""Limits on JSON values in messages."""

from __future__ import annotations

from typing import Any

NESTING_LIMIT = 100  # a worker passes messages to its child by pickle, which fails at some hundred levels


def nesting(value: Any) -> int:
    """The number of levels of lists and mappings in `value`."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return depth
