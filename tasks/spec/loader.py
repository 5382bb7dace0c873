"""Reads job specs from YAML, JSON or mappings; errors name line and field."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from tasks.errors import SpecError
from tasks.field_errors import UNKNOWN_KEY, FieldError, explain, is_shown, shown_path, similar_key
from tasks.spec.guidance import GuidanceSpec
from tasks.spec.head import INPUT_FIELDS, LoraSpec
from tasks.spec.images import input_paths, with_paths
from tasks.spec.input_files import read_input, read_limited
from tasks.spec.json_text import json_events, parse_json
from tasks.spec.places import MOST_PROBLEMS, OPTIONS, Location, SpecSource, TextError
from tasks.spec.schema import APPENDED, JobSpec
from tasks.spec.segments import FilmImage, SegmentImage, SegmentSpec
from tasks.spec.yaml_text import NOT_YAML, parse_yaml, yaml_events

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

MAX_SPEC_BYTES = 4 * 1024 * 1024
STANDARD_INPUT = "-"
MOST_KEYS = 12  # more would make the line too long to read
SUFFIXES = (".yaml", ".yml", ".json")
MOST_NAMES = 1000
"""So many files are looked at for a name like that of a spec that is not there."""
_JSON_START = re.compile(r"\s*[{\[]")


def load_spec(path: Path, *, appended: bool = False) -> JobSpec:
    """Read the spec in the file `path`, or on standard input for `-`. Its paths of inputs are relative to that file.

    It is JSON if its name ends in .json. appended: its segments come after those of a job.

    Raises:
        SpecError: one line per problem, each with file, line and field.
    """
    if str(path) == STANDARD_INPUT:
        path = Path("standard input")
        data = read_limited(sys.stdin.buffer, str(path), MAX_SPEC_BYTES, "a spec")
    elif _is_missing(path):
        raise SpecError(f"{shown_path(path)}: No such file or directory; {_instead_of(path)}")
    else:
        data = read_input(path, MAX_SPEC_BYTES, "a spec")
    name, is_json = shown_path(path), path.suffix.lower() == ".json"
    spec = _parse(_decoded(data, name), name, is_json=is_json, appended=appended)
    folder = path.parent.absolute()
    found = {name: os.path.join(folder, os.path.expanduser(name)) for name in input_paths(spec).values()}
    if not found:
        return spec
    fields = {field: found[name] for field in INPUT_FIELDS if (name := getattr(spec, field)) is not None}
    return with_paths(spec, found).model_copy(update=fields)


def _is_missing(path: Path) -> bool:
    try:
        os.stat(path)
    except FileNotFoundError:
        return True
    except (OSError, ValueError):  # reading it says what is wrong
        return False
    return False


def _instead_of(path: Path) -> str:
    """What to do where there is no spec at `path`: the most similar name of one there, or how to get one."""
    by_stem: dict[str, str] = {}
    with suppress(OSError), os.scandir(path.parent) as found:
        names = [one.name for one in islice(found, MOST_NAMES) if one.name.endswith(SUFFIXES) and is_shown(one.name)]
        by_stem = {Path(name).stem: name for name in names}
    similar = get_close_matches(path.stem, by_stem, n=1)
    return f"did you mean {by_stem[similar[0]]}?" if similar else "`longtake init` writes a spec to start from"


def parse_spec(text: str, *, source: str = "spec") -> JobSpec:
    """Read the spec in `text`, JSON or YAML; `source` names it in errors.

    Raises:
        SpecError: one line per problem, each with line and field.
    """
    return _parse(text, source, is_json=False)


def check_spec(data: Mapping[str, Any], *, source: SpecSource | None = None, appended: bool = False) -> JobSpec:
    """Make a spec of the mapping `data`; `source` gives the line of each field.

    appended: its segments come after those of a job.

    Raises:
        SpecError: one line per problem, MOST_PROBLEMS at most.
    """
    source = source or SpecSource()
    try:
        spec = JobSpec.model_validate(dict(data), context=APPENDED if appended else None)
        return spec.written_in(replace(source, repeats=_repeats(data)))
    except ValidationError as error:
        problems = _in_order(error.errors(include_url=False), source)
        first = [(_location(problem), _explain(problem)) for problem in problems[:MOST_PROBLEMS]]
        raise SpecError(source.report(first, more=len(problems) - len(first))) from None


def changed_spec(spec: JobSpec, **changes: Any) -> JobSpec:
    """`spec` with some fields changed; a change to None is none.

    Raises:
        SpecError: an invalid value.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    if not given:
        return spec
    changed = check_spec(spec.model_dump(exclude_unset=True) | given, source=SpecSource(OPTIONS))
    return changed.written_in(replace(spec.source, options=frozenset(given)))


def data_of(data: bytes, name: str) -> tuple[dict[str, Any], SpecSource]:
    """The fields of the spec in `data`, JSON or YAML, unchecked; `name` names it in errors.

    Raises:
        SpecError: it is no mapping.
    """
    return _fields(_decoded(data, name), name, is_json=False)


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecError(f"{name}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def _parse(text: str, name: str, *, is_json: bool, appended: bool = False) -> JobSpec:
    data, source = _fields(text, name, is_json=is_json)
    return check_spec(data, source=source, appended=appended)


def _fields(text: str, name: str, *, is_json: bool) -> tuple[dict[str, Any], SpecSource]:
    try:
        data, is_json = _data(text, is_json=is_json)
    except TextError as error:
        raise SpecError(f"{name}{f':{error.line}' if error.line else ''}: {error}") from None
    source = SpecSource(name, partial(json_events if is_json else yaml_events, text))
    if not isinstance(data, dict):
        raise SpecError(f"{name}: must be a mapping with at least `segments`, see docs/jobs.md")
    return data, source


def _data(text: str, *, is_json: bool) -> tuple[Any, bool]:
    """The data of a text, and whether it is JSON. What starts like JSON and is none may be YAML."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TextError(text.count("\n", 0, error.start) + 1, "not valid Unicode text") from None
    if is_json:
        return parse_json(text), True
    if not _JSON_START.match(text):
        return parse_yaml(text), False
    try:
        return parse_json(text), True
    except TextError as error:
        try:
            return parse_yaml(text), False
        except TextError as other:
            raise (error if str(other).startswith(NOT_YAML) else other) from None


def _repeats(data: Mapping[str, Any]) -> tuple[int, ...]:
    """How often each segment of a valid spec is repeated; empty if none is."""
    segments = data["segments"]
    found = tuple(segment.get("repeat") or 1 if isinstance(segment, Mapping) else 1 for segment in segments)
    return found if sum(found) > len(found) else ()


def _in_order(problems: list[ErrorDetails], source: SpecSource) -> list[ErrorDetails]:
    """By line, and in one line unknown keys first: a misspelt one often explains the others."""
    lines = source.lines([_location(problem) for problem in problems])
    keys = [(line, problem["type"] not in UNKNOWN_KEY) for line, problem in zip(lines, problems, strict=True)]
    return [problems[index] for index in sorted(range(len(problems)), key=keys.__getitem__)]


def _location(problem: ErrorDetails) -> Location:
    error = problem.get("ctx", {}).get("error")
    return error.location if isinstance(error, FieldError) else problem["loc"]


def _explain(problem: ErrorDetails) -> str:
    text = explain(problem)
    if problem["type"] in UNKNOWN_KEY:
        tables: dict[int | str, type[BaseModel]] = {
            "segments": SegmentSpec,
            "loras": LoraSpec,
            "stage2_lora": LoraSpec,
            "guidance": GuidanceSpec,
            "images": FilmImage,
        }
        table = tables.get(problem["loc"][0], JobSpec) if problem["loc"][1:] else JobSpec
        if table is SegmentSpec and problem["loc"][3:]:
            table = SegmentImage if problem["loc"][2] == "images" else GuidanceSpec
        key, keys = str(problem["loc"][-1]), list(table.model_fields)
        if table is JobSpec and key in SegmentSpec.model_fields:
            return f"{text}; it belongs in a segment, below `segments`"
        if table is SegmentSpec and key in JobSpec.model_fields:
            return f"{text}; it belongs above `segments`"
        if problem["input"] is None and not similar_key(key, keys):  # YAML in braces ends a text at its first comma
            return f"{text}; if it belongs to the text before it, which has a comma, put that whole text in quotes"
        more = ", ... (docs/jobs.md has them all)" if len(keys) > MOST_KEYS else ""
        known = f"the keys are {', '.join(keys[:MOST_KEYS])}{more}"
        text += f"; {similar_key(key, keys) or known}"
    return text
