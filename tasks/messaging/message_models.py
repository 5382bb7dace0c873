"""Pydantic models of what messages consist of, and their validation with errors that name the field."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.errors import MessageError
from tasks.field_errors import explain, field_path

M = TypeVar("M", bound="MessageModel")


class MessageModel(BaseModel):
    """Some fields of a message, each of exactly its type."""

    model_config = ConfigDict(strict=True, frozen=True)


class ClosedModel(MessageModel):
    """Some fields of a message, and no others next to them."""

    model_config = ConfigDict(extra="forbid")


def valid(model: type[M], value: object, where: str = "", *, levels: int | None = None) -> M:
    """`value` as a `model`.

    levels: how many levels of fields an error names; default: all. Below a union, pydantic names its own types.

    Raises:
        MessageError: names the field below `where` and what is wrong with it.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = field_path(((where,) if where else ()) + first["loc"][:levels])
        raise MessageError(f"{path or 'entry'}: {explain(first)}") from None
