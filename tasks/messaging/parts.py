"""Parts of messages: pydantic models, and their validation with errors that name the field."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.errors import MessageError
from tasks.field_errors import explain, field_path

P = TypeVar("P", bound="Part")


class Part(BaseModel):
    """A part of a message: every field has exactly its type."""

    model_config = ConfigDict(strict=True, frozen=True)


class ClosedPart(Part):
    """A part without other fields."""

    model_config = ConfigDict(extra="forbid")


def valid(part: type[P], value: object, where: str = "", *, levels: int | None = None) -> P:
    """`value` as a `part`.

    levels: how many levels of fields an error names; default: all. Below a union, pydantic names its own types.

    Raises:
        MessageError: names the field below `where` and what is wrong with it.
    """
    try:
        return part.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = field_path(((where,) if where else ()) + first["loc"][:levels])
        raise MessageError(f"{path or 'entry'}: {explain(first)}") from None
