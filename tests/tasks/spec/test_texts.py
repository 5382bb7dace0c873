"""Specs as text: JSON by the rules of JSON, anything else by those of YAML 1.2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import SpecError
from tasks.spec.json_text import json_events, parse_json
from tasks.spec.loader import load_spec, parse_spec
from tasks.spec.places import SpecSource, build
from tasks.spec.yaml_text import parse_yaml, yaml_events

ONE = '"segments": [{"prompt": "a"}]'


@pytest.mark.parametrize(
    ("scalar", "value"),
    [
        ("no", "no"),
        ("Yes", "Yes"),
        ("on", "on"),
        ("y", "y"),
        ("true", True),
        ("FALSE", False),
        ("tRue", "tRue"),
        ("~", None),
        ("Null", None),
        ("", None),
        ("0123", 123),
        ("0o17", 15),
        ("0x1F", 31),
        ("0b11", "0b11"),
        ("+7", 7),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("190:20:30.15", "190:20:30.15"),
        ("1.", 1.0),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("-1.5E-1", -0.15),
        ("1e999", float("inf")),
        ("-.inf", float("-inf")),
        (".INF", float("inf")),
        ("+.", "+."),
        ("2026-01-31", "2026-01-31"),
        ("=", "="),
        ("<<", "<<"),
        ("'1'", "1"),
        ('"null"', "null"),
        ("'a\U0001f600'", "a\U0001f600"),
    ],
)
def test_scalars_have_the_types_of_yaml_1_2(scalar: str, value: object) -> None:
    found = parse_yaml(f"key: {scalar}")["key"]
    assert found == value
    assert type(found) is type(value)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3)))
def test_json_is_read_as_json(value: object) -> None:
    assert parse_json(json.dumps({"key": value}, indent="\t")) == {"key": value}
    assert parse_json(json.dumps({"key": value}, ensure_ascii=False)) == {"key": value}


@pytest.mark.parametrize("name", ["job.json", "job.JSON", "job.yaml"])
def test_what_json_writers_write_is_a_spec(tmp_path: Path, name: str) -> None:
    # Given an emoji as two escapes, tabs, and a byte order mark
    spec = {"title": "a \U0001f600", "segments": [{"prompt": "a\t\x1b"}]}
    (tmp_path / name).write_text(json.dumps(spec, indent="\t"), encoding="utf-8-sig")
    # When / Then
    loaded = load_spec(tmp_path / name)
    assert (loaded.title, loaded.segments[0].prompt) == ("a \U0001f600", "a\t\x1b")


INVALID_JSON = {
    f'{{{ONE},\n"seed": 0123}}': ":2: not valid JSON: expecting ',' delimiter",
    f'{{{ONE},\n"seed": NaN}}': ": not valid JSON: NaN is not a number in JSON",
    f'{{{ONE},\n"seed": {"9" * 5000}}}': ": a number has 5,000 digits",
    "{'title': 1}": ":1: not valid JSON: expecting property name enclosed in double quotes",
    f"{{{ONE}}} x": ":1: not valid JSON: extra data",
    "": ":1: not valid JSON: expecting value",
    "[" * 100_000: ": nested deeper than 8 levels",
    "[]": ": must be a mapping",
    f'{{{ONE}, "\\u001b":\n1,\n"\\u001b": 2}}': r":3: \x1b: given twice",
    f'{{{ONE},\n\n"width": 100}}': ":3: width: 100 is not a multiple of 32",
    '{"segments": [{"prompt": "a:{[,"},\n{"prompt": "\\n\\"\\n"},\n{"promt": 1}]}': ":3: segments.2.promt: unknown key",
    f'{{{ONE}, "guidance":\n{{"cfg":\n[1,\n"x"]}}}}': ":2: guidance.cfg: must be a number, or two",
    f'{{{ONE}, "loras": [{{"path": "a"}},\n{{"path": "b",\n"weight": 3}}]}}': ":3: loras.1.weight: must be at most 2",
    f'{{{ONE}, "seed": "\ud800"}}': ":1: not valid Unicode text",
}


@pytest.mark.parametrize(("text", "message"), INVALID_JSON.items(), ids=[repr(text)[:40] for text in INVALID_JSON])
def test_invalid_json_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    # Given
    path = tmp_path / "job.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    # When / Then
    with pytest.raises(SpecError) as error:
        load_spec(path)
    assert str(error.value).startswith(f"{path}{message}") or "not UTF-8" in str(error.value)


INVALID_YAML = {
    "segments: []\n---\nsegments: []": ":2: there is a second document",
    "segments: []\n...\n%YAML 1.1\n--- a": ":3: there is a second document",
    "? [a]\n: b": ":1: a key must be text",
    "? {a: 1}\n: b": ":1: a key must be text",
    "segments: [{prompt: a, prompt: b}]": ":1: prompt: given twice",
    "a: 1\n'a': 2": ":2: a: given twice",
    "<<: {width: 64}\nsegments: [{prompt: a}]": ":1: <<: unknown key",
    "a: ! b": ":1: tags (!) are not allowed",
    'a: "\\UFFFFFFFF"': ":1: not valid YAML: found invalid Unicode character escape code",
    "a:\n b: \x07": ":2: not valid YAML: unacceptable character #x0007",
    "segments: [{prompt: a}]\nseed: 1:1:1": ":2: seed: must be a whole number, not '1:1:1'",
    "segments: [{prompt: a}]\nseed: " + "9" * 5000: ":2: a number has 5,000 digits",
    "a:\n  - b\n c": ":3: not valid YAML: this line does not continue what is above it",
    "\ta: b": ":1: not valid YAML: a tab in the indent; use spaces",
    "a:\n\tb: c": ":2: not valid YAML: a tab in the indent; use spaces",
    "a: b: c": ":1: not valid YAML: a colon inside a text",
    "{bad": ":1: not valid JSON",
    "a: [": ":1: not valid YAML",
    "- " * 20: ":1: nested deeper than 8 levels",
    "a: \ud800": ":1: not valid Unicode text",
    # starts like JSON, and is neither
    '{"a": 1,\n"b" 2}': ":2: not valid JSON: expecting ':' delimiter",
}


@pytest.mark.parametrize(("text", "message"), INVALID_YAML.items(), ids=[repr(text)[:40] for text in INVALID_YAML])
def test_invalid_yaml_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(SpecError) as error:
        parse_spec(text, source="job.yaml")
    assert f"job.yaml{message}" in str(error.value)


def test_a_yaml_mapping_in_braces_is_yaml() -> None:
    assert parse_spec('{"segments": [{prompt: a}], "seed": 0123}').seed == 123


json_data = st.recursive(
    st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)


def _locations(value: Any, here: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here, *(location for key, entry in entries for location in _locations(entry, (*here, key)))]


@given(st.dictionaries(st.text(), json_data, max_size=3))
def test_every_field_has_its_line(value: dict[str, Any]) -> None:
    # Given a text in which every value is on a line of its own
    text = json.dumps(value, indent=1)
    order = [location for location in _locations(value) if len(location) < 8]
    # Then lines rise in the order of the text, for JSON and for the same text as YAML
    for events in (json_events, yaml_events):
        try:
            list(events(text))
        except ValueError:  # YAML cannot escape all that JSON can
            continue
        source = SpecSource("", lambda events=events: events(text))  # type: ignore[misc]
        lines = [int(place.split(":")[1]) for place in source.places(order)]
        assert lines == sorted(lines)
        assert len(set(lines)) == len(order)
    assert build(json_events(json.dumps({"a": [{"b": "c"}]}))) == {"a": [{"b": "c"}]}
