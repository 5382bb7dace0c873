"""The API as a page: the OpenAPI document, without scripts and files of other hosts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response

from tasks.server.context import Context
from tasks.server.pages import shown

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, slots=True)
class Field:
    """A parameter of a request, or a field of what is sent or answered. place: where it goes, such as `query`."""

    name: str
    place: str
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Operation:
    """One request. answers: what comes back, by status."""

    method: str
    path: str
    text: str
    fields: list[Field]
    answers: dict[str, str]


@router.get("/docs")
def api_page(request: Request, context: Context) -> Response:
    """Every request with its fields and answers, from the OpenAPI document."""
    document = request.app.openapi()
    groups: dict[str, list[Operation]] = {}
    for path, methods in document["paths"].items():
        for method, found in methods.items():
            groups.setdefault(found.get("tags", ["other"])[0], []).append(_operation(method, context.at(path), found))
    schemas = {
        name: (schema.get("description", ""), list(_fields(schema, "")))
        for name, schema in document["components"]["schemas"].items()
    }
    return shown(context, "api.html", "API", groups=groups, schemas=schemas)


def _operation(method: str, path: str, found: Mapping[str, Any]) -> Operation:
    fields = [
        Field(field["name"], field["in"], _kind(field.get("schema", {})), field.get("description", ""))
        for field in found.get("parameters", ())
    ]
    for kind, body in found.get("requestBody", {}).get("content", {}).items():
        fields += _fields(body.get("schema", {}), kind)
    answers = {
        status: ", ".join(
            f"{kind} {_kind(body['schema'])}" if body.get("schema") else kind
            for kind, body in answer.get("content", {}).items()
        )
        or "nothing"
        for status, answer in found["responses"].items()
    }
    return Operation(method.upper(), path, found.get("description") or found.get("summary", ""), fields, answers)


def _fields(schema: Mapping[str, Any], place: str) -> Iterator[Field]:
    for name, field in schema.get("properties", {}).items():
        required = name in schema.get("required", ())
        yield Field(name, place, _kind(field) + ("" if required else ", optional"), field.get("description", ""))


def _kind(schema: Mapping[str, Any]) -> str:
    """A type in words, such as `list of JobView`."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(_kind(choice) for choice in choices))
    if "enum" in schema or "const" in schema:
        return " or ".join(str(value) for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    return str(schema.get("format") or schema.get("type") or "anything")
