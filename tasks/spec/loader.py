"""Reads job specs from YAML, JSON or mappings; errors name line and field."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ValidationError

from tasks.errors import SpecError
from tasks.field_errors import UNKNOWN_KEY, explain, field_path
from tasks.spec.guidance import GuidanceSpec
from tasks.spec.schema import JobSpec, LoraSpec, SegmentSpec

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

MAX_SPEC_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 8
STANDARD_INPUT = "-"
Location = tuple[str | int, ...]


def load_spec(path: Path) -> JobSpec:
    """Read the spec in the file `path`, or on standard input for `-`. Its image path is relative to that file.

    Raises:
        SpecError: one line per problem, each with file, line and field.
    """
    if str(path) == STANDARD_INPUT:
        path = Path("/dev/stdin")
    try:
        if path.stat().st_size > MAX_SPEC_BYTES:
            raise SpecError(f"{path}: larger than {MAX_SPEC_BYTES:,} bytes, the limit for a spec")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    spec = parse_spec(text, source=str(path))
    if spec.image is None:
        return spec
    return spec.model_copy(update={"image": os.path.join(path.parent.absolute(), os.path.expanduser(spec.image))})


def parse_spec(text: str, *, source: str = "spec") -> JobSpec:
    """Read the spec in `text`, YAML or JSON; `source` names it in errors.

    Raises:
        SpecError: one line per problem, each with line and field.
    """
    lines: dict[Location, int] = {}
    try:
        _check_structure(text, source)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = None if node is None else _as_data(node, (), lines, source)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, SpecError):
            raise
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise SpecError(f"{source}{line}: not valid YAML: {problem}") from None
    if not isinstance(data, dict):
        raise SpecError(f"{source}: must be a mapping with at least `segments`, see docs/jobs.md")
    return check_spec(data, source=source, lines=lines)


def check_spec(
    data: Mapping[str, Any], *, source: str = "spec", lines: Mapping[Location, int] | None = None
) -> JobSpec:
    """Make a spec of the mapping `data`; `lines` gives the line of each field.

    Raises:
        SpecError: one line per problem.
    """
    try:
        return JobSpec.model_validate(dict(data))
    except ValidationError as error:
        problems = []
        for problem in error.errors(include_url=False):
            line = _line_of(problem["loc"], lines or {})
            field = field_path(problem["loc"])
            problems.append(f"{source}{line}: {field + ': ' if field else ''}{_explain(problem)}")
        raise SpecError("\n".join(problems)) from None


def changed_spec(spec: JobSpec, **changes: Any) -> JobSpec:
    """`spec` with some fields changed; a change to None is none.

    Raises:
        SpecError: an invalid value.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    return check_spec(spec.model_dump(exclude_unset=True) | given, source="options") if given else spec


def _explain(problem: ErrorDetails) -> str:
    text = explain(problem)
    if problem["type"] in UNKNOWN_KEY:
        tables: dict[Any, type[BaseModel]] = {
            "segments": SegmentSpec,
            "loras": LoraSpec,
            "stage2_lora": LoraSpec,
            "guidance": GuidanceSpec,
        }
        table = tables.get(problem["loc"][0], JobSpec) if problem["loc"][1:] else JobSpec
        text += f"; the keys are {', '.join(table.model_fields)}"
    return text


def _line_of(location: Location, lines: Mapping[Location, int]) -> str:
    """`:` and the line of a field, or of the one that contains it; empty if unknown."""
    while location and location not in lines:
        location = location[:-1]
    return f":{lines[location]}" if location in lines else ""


def _check_structure(text: str, source: str) -> None:
    """Refuse aliases, tags and deep nesting.

    They can make a large document of a small file, and a spec needs none.
    """
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.AliasEvent):
            raise SpecError(f"{source}:{line}: aliases (*{event.anchor}) are not allowed")
        if getattr(event, "tag", None) is not None:
            raise SpecError(f"{source}:{line}: tags ({field_path([getattr(event, 'tag', '')])}) are not allowed")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise SpecError(f"{source}:{line}: nested deeper than {MAX_DEPTH} levels")


def _as_data(node: yaml.Node, location: Location, lines: dict[Location, int], source: str) -> Any:
    """The data of `node`; adds the line of every field to `lines`."""
    lines.setdefault(location, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_as_data(item, (*location, i), lines, source) for i, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return yaml.SafeLoader("").construct_object(node, deep=True)
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = str(key_node.value)
        line = key_node.start_mark.line + 1
        if key in result:
            raise SpecError(f"{source}:{line}: {field_path([key])}: given twice")
        lines[(*location, key)] = line
        result[key] = _as_data(value_node, (*location, key), lines, source)
    return result
