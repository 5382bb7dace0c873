"""Limits on JSON values that travel in messages."""

from __future__ import annotations

from typing import Any

NESTING_LIMIT = 100  # a worker hands its messages to its child by pickle, which fails at some hundred levels


def nesting(value: Any) -> int:
    """How many levels of lists and mappings are in `value`."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return depth
