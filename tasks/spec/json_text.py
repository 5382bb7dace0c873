"""JSON specs: their data, and their events for the lines of fields."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from tasks.spec.places import MAX_DEPTH, Event, EventKind, TextError, build

MOST_DIGITS = 400
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]]|[^\s{}\[\],:"]+')
_OPENS = {"{": EventKind.MAPPING, "[": EventKind.SEQUENCE}


def parse_json(text: str) -> Any:
    """The data of a JSON text.

    Raises:
        TextError: not JSON, a key that is given twice, or a number with too many digits.
    """
    try:
        return json.loads(text, object_pairs_hook=_mapping, parse_int=_whole, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        problem = error.msg.removesuffix(" at")
        raise TextError(error.lineno, f"not valid JSON: {problem[:1].lower()}{problem[1:]}") from None
    except RecursionError:
        raise TextError(None, f"nested deeper than {MAX_DEPTH} levels") from None
    except _TwiceError:
        build(json_events(text))  # names the line
        raise


def json_events(text: str) -> Iterator[Event]:
    """The events of a valid JSON text. Scalars other than text are as written."""
    line, at = 1, 0
    for match in _TOKEN.finditer(text):
        token = match[0]
        line += text.count("\n", at, match.start())
        at = match.start()
        if token in _OPENS:
            yield Event(_OPENS[token], line)
        elif token in "}]":
            yield Event(EventKind.CLOSE, line)
        else:
            yield Event(EventKind.SCALAR, line, json.loads(token) if token[0] == '"' else token)


class _TwiceError(Exception):
    """An object has a key twice."""


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _TwiceError
    return found


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise TextError(None, f"a number has {len(digits):,} digits")
    return int(digits)


def _no_number(name: str) -> float:
    raise TextError(None, f"not valid JSON: {name} is not a number in JSON")
