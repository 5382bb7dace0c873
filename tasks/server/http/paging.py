"""Pages of jobs, each after the last one of the page before."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some of many. has_more: whether others follow."""

    entries: list[T]
    has_more: bool


def page_of(found: Iterable[T], *, limit: int) -> Page[T]:
    """The first `limit` entries."""
    entries = list(islice(found, limit + 1))
    return Page(entries[:limit], len(entries) > limit)
