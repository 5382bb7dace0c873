"""YAML specs, read by the rules of YAML 1.2's core schema: `no` and `2026-01-31` are text, `0123` is 123.

libyaml scans the text. Its events are read one by one, so that a small file cannot become large data.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from tasks.field_errors import field_path
from tasks.spec.json_text import MOST_DIGITS
from tasks.spec.places import Event, EventKind, TextError, build

NOT_YAML = "not valid YAML"
_MISPLACED = "this line does not continue what is above it; check its indent, and quotes and brackets before it"
_ADVICE = {
    "did not find expected key": _MISPLACED,
    "did not find expected '-' indicator": _MISPLACED,
    "mapping values are not allowed in this context": "a colon inside a text; check the indent, or quote the text",
}
"""What to say instead of what libyaml says."""
_NULL = ("", "~", "null", "Null", "NULL")
_TRUE = ("true", "True", "TRUE")
_FALSE = ("false", "False", "FALSE")
_WHOLE = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITY = re.compile(r"[-+]?\.(inf|Inf|INF)")
_TAG_DIRECTIVE = re.compile(r"(?:\A|[\r\n\x85\u2028\u2029])\ufeff?%TAG")
_NAN = (".nan", ".NaN", ".NAN")


def parse_yaml(text: str) -> Any:
    """The data of a YAML text; null if it is empty.

    Raises:
        TextError: not YAML, more than one document, an alias, a tag, a key that is given twice, or deep nesting.
    """
    return build(yaml_events(text))


def yaml_events(text: str) -> Iterator[Event]:
    """The events of a YAML text; raises TextError."""
    if directive := _TAG_DIRECTIVE.search(text):  # a thousand of them take libyaml seconds
        raise TextError(text.count("\n", 0, directive.end()) + 1, "tags (%TAG) are not allowed")
    documents = 0
    try:
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            line = event.start_mark.line + 1 if event.start_mark else 1
            if isinstance(event, yaml.AliasEvent):
                raise TextError(line, f"aliases (*{field_path([str(event.anchor)])}) are not allowed")
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise TextError(line, "there is a second document; a spec is one")
            elif isinstance(event, yaml.CollectionEndEvent):
                yield Event(EventKind.CLOSE, line)
            elif isinstance(event, yaml.NodeEvent):
                tag = getattr(event, "tag", None)
                if tag is not None:
                    raise TextError(line, f"tags ({field_path([tag])}) are not allowed")
                if isinstance(event, yaml.ScalarEvent):
                    is_plain = event.implicit[0]
                    yield Event(EventKind.SCALAR, line, _plain(event.value, line) if is_plain else event.value)
                else:
                    is_mapping = isinstance(event, yaml.MappingStartEvent)
                    yield Event(EventKind.MAPPING if is_mapping else EventKind.SEQUENCE, line)
    except yaml.reader.ReaderError as error:
        line = text.encode()[: error.position].count(b"\n") + 1
        raise TextError(line, f"{NOT_YAML}: unacceptable character #x{error.character:04x}") from None
    except yaml.MarkedYAMLError as error:
        last = text.count("\n", 0, -1) + 1
        line = min(error.problem_mark.line + 1, last) if error.problem_mark else last
        raise TextError(line, f"{NOT_YAML}: {_problem(text, error)}") from None


def _problem(text: str, error: yaml.MarkedYAMLError) -> str:
    """What is wrong, in words for somebody who writes a spec."""
    mark = error.problem_mark
    lines = text.split("\n")
    if mark is not None and mark.line < len(lines) and "\t" in lines[mark.line][: mark.column + 1]:
        return "a tab in the indent; use spaces"
    return _ADVICE.get(str(error.problem), str(error.problem))


def _plain(text: str, line: int) -> Any:
    """The value of a scalar without quotes."""
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if text[0] not in "+-.0123456789":
        return text
    if _WHOLE.fullmatch(text) or _OCTAL.fullmatch(text) or _HEX.fullmatch(text):
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        if base == 10 and len(text) > MOST_DIGITS:
            raise TextError(line, f"a number has {len(text):,} digits")
        return int(text, base)
    if _NUMBER.fullmatch(text):
        return float(text)
    if _INFINITY.fullmatch(text):
        return float(text.replace(".", ""))
    return float("nan") if text in _NAN else text
