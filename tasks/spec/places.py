"""The lines of a spec's fields, found from the events of its text: containers that open and close, and scalars."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import accumulate
from typing import Any, NamedTuple

from tasks.field_errors import counted, field_path

MAX_DEPTH = 8
MOST_PROBLEMS = 10
"""So many problems of a spec are shown, and a count of the others."""
Location = tuple[str | int, ...]


class EventKind(Enum):
    """What an event of a text is."""

    MAPPING = auto()
    SEQUENCE = auto()
    SCALAR = auto()
    CLOSE = auto()


class Event(NamedTuple):
    """A part of a text. value: that of a scalar. line: counted from 1."""

    kind: EventKind
    line: int
    value: Any = None


class TextError(ValueError):
    """A text that is not a spec's. line: counted from 1; None if unknown."""

    def __init__(self, line: int | None, problem: str) -> None:
        super().__init__(problem)
        self.line = line


OPTIONS = "options"
"""The place of values that options of the command gave."""


@dataclass(frozen=True, slots=True)
class SpecSource:
    """Where a spec was written. Two sources are equal, so that specs are compared by what they say.

    name: of the file. events: reads the text again; it is needed only for errors. options: fields that options of the
    command replaced. repeats: how often each segment of the text counts, once they are written out; empty: once.
    before: how many segments of the spec come before those of the text, from elsewhere.
    """

    name: str = field(default="spec", compare=False)
    events: Callable[[], Iterable[Event]] = field(default=tuple, compare=False)
    options: frozenset[str] = field(default=frozenset(), compare=False)
    repeats: tuple[int, ...] = field(default=(), compare=False)
    before: int = field(default=0, compare=False)

    def places(self, locations: Collection[Location]) -> list[str]:
        """`file:line: field` of each location; the line is that of the closest container that the text has."""
        return [self._place(location, line) for location, line in zip(locations, self.lines(locations), strict=True)]

    def lines(self, locations: Collection[Location]) -> list[int]:
        """The line of each location, or of the closest container that the text has; 0: unknown."""
        written = [self._written(location) for location in locations]
        lines = _lines(self.events(), {one[:length] for one in written for length in range(len(one) + 1)})
        return [_line_of(location, lines) for location in written]

    def place(self, *location: str | int) -> str:
        """`file:line: field` of one location."""
        return self.places([location])[0]

    def report(self, problems: Sequence[tuple[Location, str]], *, more: int) -> str:
        """One line per problem of the spec, with its place. more: how many others there are."""
        places = self.places([location for location, _ in problems])
        lines = [f"{place}: {problem}" for place, (_, problem) in zip(places, problems, strict=True)]
        if more:
            lines.append(f"{self.name}: and {counted(more, 'more problem')}")
        return "\n".join(lines)

    def _written(self, location: Location) -> Location:
        """The location in the text of one in the spec, in which repeated segments are written out."""
        if location[:1] != ("segments",) or not location[1:]:
            return location
        index = int(location[1]) - self.before
        if index < 0:
            return ("segments",)
        return (
            "segments",
            bisect_right(list(accumulate(self.repeats)), index) if self.repeats else index,
            *location[2:],
        )

    def _place(self, location: Location, line: int) -> str:
        location = self._written(location)
        if location and location[0] in self.options:
            return f"{OPTIONS}: {field_path(location)}"
        return f"{self.name}{f':{line}' if line else ''}" + (f": {field_path(location)}" if location else "")


def _line_of(location: Location, lines: Mapping[Location, int]) -> int:
    while location and location not in lines:
        location = location[:-1]
    return lines.get(location, 0)


def build(events: Iterable[Event]) -> Any:
    """The data of a text.

    Raises:
        TextError: a key that is given twice or is no scalar, or nesting deeper than MAX_DEPTH.
    """
    data: list[Any] = []
    open_: list[Any] = [data]
    keys: list[str | None] = [None]
    for kind, line, value in events:
        if kind is EventKind.CLOSE:
            open_.pop()
            keys.pop()
            continue
        container, key = open_[-1], keys[-1]
        if isinstance(container, dict) and key is None:
            keys[-1] = _new_key(container, kind, line, value)
            continue
        if kind is not EventKind.SCALAR:
            value = {} if kind is EventKind.MAPPING else []
        if key is None:
            container.append(value)
        else:
            container[key] = value
            keys[-1] = None
        if kind is not EventKind.SCALAR:
            open_.append(value)
            keys.append(None)
            if len(open_) > MAX_DEPTH + 1:
                raise TextError(line, f"nested deeper than {MAX_DEPTH} levels")
    return data[0] if data else None


def _new_key(container: dict[str, Any], kind: EventKind, line: int, value: Any) -> str:
    if kind is not EventKind.SCALAR:
        raise TextError(line, "a key must be text")
    key = "null" if value is None else str(value)
    if key in container:
        raise TextError(line, f"{field_path([key])}: given twice")
    return key


def _lines(events: Iterable[Event], wanted: Collection[Location]) -> dict[Location, int]:
    """The lines of the `wanted` locations that the text has."""
    found: dict[Location, int] = {}
    for location, line in _located(events):
        if location in wanted:
            found.setdefault(location, line)
            if len(found) == len(wanted):
                break
    return found


def _located(events: Iterable[Event]) -> Iterator[tuple[Location, int]]:
    """Location and line of every value; in a mapping, the line of its key."""
    path: list[Any] = []  # in each open container the current key or index; None where a key follows
    mappings: list[bool] = []
    for kind, line, value in events:
        if kind is EventKind.CLOSE:
            path.pop()
            mappings.pop()
        else:
            if not path:
                yield (), line
            elif not mappings[-1]:
                path[-1] += 1
                yield tuple(path), line
            elif path[-1] is None:
                path[-1] = "null" if value is None else str(value)
                yield tuple(path), line
                continue
            if kind is not EventKind.SCALAR:
                path.append(None if kind is EventKind.MAPPING else -1)
                mappings.append(kind is EventKind.MAPPING)
                continue
        if mappings and mappings[-1]:
            path[-1] = None
