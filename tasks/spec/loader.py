"""Reads job specs from YAML, JSON or mappings, with errors that name line and field."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from tasks.errors import SpecError
from tasks.spec.guidance import GuidanceSpec
from tasks.spec.schema import JobSpec, LoraSpec, SegmentSpec

MAX_SPEC_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 8
Where = tuple[str | int, ...]


def load_spec(path: Path) -> JobSpec:
    """The spec in the file `path`; an image that it names lies relative to that file.

    Raises:
        SpecError: one line per problem, each with file, line and field.
    """
    try:
        if path.stat().st_size > MAX_SPEC_BYTES:
            raise SpecError(f"{path}: larger than {MAX_SPEC_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: not UTF-8 text (byte {error.start})") from None
    spec = parse_spec(text, source=str(path))
    if spec.image is None:
        return spec
    return spec.model_copy(update={"image": os.path.join(path.parent.absolute(), os.path.expanduser(spec.image))})


def parse_spec(text: str, *, source: str = "spec") -> JobSpec:
    """The spec that `text` (YAML or JSON) holds; `source` names it in messages.

    Raises:
        SpecError: one line per problem, each with line and field.
    """
    lines: dict[Where, int] = {}
    try:
        _refuse_tricks(text, source)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = None if node is None else _plain(node, (), lines, source)
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


def check_spec(data: Mapping[str, Any], *, source: str = "spec", lines: Mapping[Where, int] | None = None) -> JobSpec:
    """The spec that the mapping `data` describes.

    Raises:
        SpecError: one line per problem.
    """
    try:
        return JobSpec.model_validate(dict(data))
    except ValidationError as error:
        problems = []
        for problem in error.errors():
            where: Where = problem["loc"]
            line = _line_of(where, lines or {})
            field = ".".join(str(part) for part in where)
            problems.append(f"{source}{line}: {field + ': ' if field else ''}{_say(problem)}")
        raise SpecError("\n".join(problems)) from None


def _say(problem: Any) -> str:
    kind, message = problem["type"], str(problem["msg"])
    if kind == "extra_forbidden":
        tables: dict[Any, type[BaseModel]] = {"segments": SegmentSpec, "loras": LoraSpec, "guidance": GuidanceSpec}
        table = tables.get(problem["loc"][0], JobSpec) if problem["loc"][1:] else JobSpec
        return f"unknown key; the keys are {', '.join(table.model_fields)}"
    if kind == "missing":
        return "missing"
    message = message.removeprefix("Value error, ").replace("Input should", "should")
    return message if kind == "value_error" else f"{message}, not {_shown(problem['input'])}"


def _shown(value: object) -> str:
    try:
        return f"{value!r:.80}"
    except ValueError:  # an integer of thousands of digits
        return f"such {type(value).__name__}"


def _line_of(where: Where, lines: Mapping[Where, int]) -> str:
    while where and where not in lines:
        where = where[:-1]
    return f":{lines[where]}" if where in lines else ""


def _refuse_tricks(text: str, source: str) -> None:
    """Aliases and deep nesting make a small file a large document; a spec needs neither."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.AliasEvent):
            raise SpecError(f"{source}:{line}: aliases (*{event.anchor}) are not allowed")
        if getattr(event, "tag", None) is not None:
            raise SpecError(f"{source}:{line}: tags ({getattr(event, 'tag', '')}) are not allowed")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise SpecError(f"{source}:{line}: nested deeper than {MAX_DEPTH} levels")


def _plain(node: yaml.Node, where: Where, lines: dict[Where, int], source: str) -> Any:
    """`node` as plain data; notes the line of every field in `lines`."""
    lines.setdefault(where, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*where, i), lines, source) for i, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return yaml.SafeLoader("").construct_object(node, deep=True)
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = str(key_node.value)
        line = key_node.start_mark.line + 1
        if key in result:
            raise SpecError(f"{source}:{line}: {key}: given twice")
        lines[(*where, key)] = line
        result[key] = _plain(value_node, (*where, key), lines, source)
    return result
