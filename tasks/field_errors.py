"""Error messages for invalid fields, in plain words instead of pydantic's."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sized
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

SHOWN_CHARACTERS = 60
LINE_CHARACTERS = 2000
# Controls, formats (bidirectional ones, too), half surrogate pairs, private characters, line and paragraph separators.
HIDDEN_CATEGORIES = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
JOINERS = "\u200c\u200d"
"""The only formats that are text: Persian words and joined emoji need them."""
PATH_CHARACTERS = 100
LONGEST_KEY = 40
PATH_SHOWN_CHARACTERS = 500
# By pydantic's type of error, with the names of its context in braces.
MUST_BE = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "dict_type": "must be a mapping",
    "enum": "must be {expected}",
    "finite_number": "must be a finite number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number",
    "int_type": "must be a whole number",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "list_type": "must be a list",
    "literal_error": "must be {expected}",
    "model_attributes_type": "must be a mapping",
    "model_type": "must be a mapping",
    "none_required": "must be null",
    "string_pattern_mismatch": "must match {pattern}",
    "string_type": "must be text",
    "string_unicode": "must be valid Unicode text",
    "tuple_type": "must be a list",
}
MUST_HAVE = {
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must have {min_length} or more characters",
    "too_long": "must have at most {max_length} entries",
    "too_short": "must have {min_length} or more entries",
}
UNKNOWN_KEY = ("extra_forbidden", "invalid_key")


class FieldError(ValueError):
    """An error of several fields together; location: the path of the one whose line says most."""

    def __init__(self, location: str | tuple[str | int, ...], problem: str) -> None:
        super().__init__(problem)
        self.location = (location,) if isinstance(location, str) else location


def explain(problem: ErrorDetails) -> str:
    """What is wrong with a field, in one line.

    problem: an entry of `ValidationError.errors()`.
    """
    kind, value = problem["type"], problem["input"]
    # pydantic reports the bound 2 of a float field as 2.0
    context = {
        name: int(bound) if isinstance(bound, float) and bound.is_integer() else bound
        for name, bound in problem.get("ctx", {}).items()
    }
    if kind == "missing":
        return "missing"
    if kind in UNKNOWN_KEY:
        return "unknown key"
    if kind == "value_error":
        return str(context["error"])
    if kind in ("string_too_short", "too_short") and context["min_length"] == 1:
        return "must not be empty"
    if kind in MUST_HAVE:
        given = f", not {len(value)}" if isinstance(value, Sized) else ""
        return f"{MUST_HAVE[kind].format(**context)}{given}"
    return f"{MUST_BE.get(kind, 'must be valid').format(**context)}, not {shown(value)}"


def similar_key(key: str, known: Iterable[str]) -> str:
    """`did you mean width?`, or '' if no known key is alike."""
    similar = get_close_matches(key[:LONGEST_KEY], list(known), n=1)
    return f"did you mean {similar[0]}?" if similar else ""


def is_shown(text: str) -> bool:
    """Whether `text` can be shown as it is: one line without characters that a terminal acts on."""
    return text.isprintable() or not any(map(_is_hidden, text))


def escaped(text: object, limit: int = LINE_CHARACTERS) -> str:
    """`text` as one line that a terminal only shows: what it would act on is an escape. At most `limit` characters.

    Everything that came from a user goes through here where it is shown or logged.
    """
    whole = str(text)
    cut = whole if len(whole) <= limit else f"{whole[:limit]}..."
    if is_shown(cut):
        return cut
    return "".join(one.encode("unicode_escape").decode() if _is_hidden(one) else one for one in cut)


def counted(count: int, noun: str) -> str:
    """`1 segment`, `3 segments`: a number of things for people. noun: one of them; its plural ends in s."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in HIDDEN_CATEGORIES and character not in JOINERS


def field_path(location: Iterable[str | int]) -> str:
    """The dotted path of a field, short and without control characters."""
    return escaped(".".join(map(str, location))[:PATH_CHARACTERS])


def shown_path(path: object) -> str:
    """A file's name for an error message."""
    return escaped(path, PATH_SHOWN_CHARACTERS)


def shown(value: object) -> str:
    """A value for an error message, short and without control characters."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        text = repr(value[: SHOWN_CHARACTERS + 1])
        return text if len(text) <= SHOWN_CHARACTERS + 2 else f"{text[:SHOWN_CHARACTERS]}..."
    if isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**64):
        return repr(value)
    if isinstance(value, int):
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, list | tuple) else f"a value of type {type(value).__name__}"
