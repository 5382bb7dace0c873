"""Checks for the fields of a payload.

Each returns its value as a plain Python type, or raises a ContinuationError that begins with `field`.
"""

from __future__ import annotations

import base64
import json
import math
import operator
from collections.abc import Mapping
from typing import Any, SupportsFloat, SupportsIndex

from ltx2.errors import ContinuationError

LARGEST_INT = 2**63 - 1


def count(field: str, value: object) -> int:
    """A whole number in 0 .. 2**63 - 1, as an int. Anything with `__index__` is one; booleans are not."""
    number = _index(value)
    if number is None or not 0 <= number <= LARGEST_INT:
        raise ContinuationError(f"{field}: must be a whole number in 0..2**63-1, not {shown(value)}")
    return number


def _index(value: object) -> int | None:
    try:
        return operator.index(value) if isinstance(value, SupportsIndex) and not _is_boolean(value) else None
    except (TypeError, ValueError, RuntimeError):
        return None  # an array


def _is_boolean(value: object) -> bool:
    return isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool")


def _plain(value: object) -> int | float:
    """A number of another library, for JSON."""
    number = _index(value)
    if number is not None:
        return number
    if isinstance(value, SupportsFloat) and not _is_boolean(value):
        return float(value)
    raise TypeError(f"a {type(value).__name__} is not JSON")


def rate(field: str, value: object) -> int:
    """An int in 1 .. 2**63 - 1."""
    number = count(field, value)
    if number == 0:
        raise ContinuationError(f"{field}: must be positive, not 0")
    return number


def finite(field: str, value: object) -> float:
    """A finite number, as a float. Anything with `__float__` is a number; booleans are not."""
    try:
        if isinstance(value, SupportsFloat) and not _is_boolean(value) and math.isfinite(number := float(value)):
            return number
    except (OverflowError, TypeError, ValueError, RuntimeError):
        pass  # an int too large for a float, or an array
    raise ContinuationError(f"{field}: must be a finite number, not {shown(value)}")


def strength(field: str, value: object) -> float:
    """A number in [0, 1], as a float."""
    number = finite(field, value)
    if not 0 <= number <= 1:
        raise ContinuationError(f"{field}: must be in 0..1, not {shown(value)}")
    return number


def metadata(field: str, value: object) -> dict[str, Any]:
    """A deep copy of a mapping that JSON preserves: no tuples, no NaN, string keys only. None gives an empty one."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ContinuationError(f"{field}: must be a mapping, not {shown(value)}")
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(value), allow_nan=False, default=_plain))
        unchanged = bool(plain == value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ContinuationError(f"{field}: cannot be written as JSON ({error})") from None
    if not unchanged:
        raise ContinuationError(f"{field}: JSON would change it; use lists and string keys only")
    return plain


def text(field: str, value: object) -> str:
    """A non-empty string."""
    if not isinstance(value, str) or not value:
        raise ContinuationError(f"{field}: must be a non-empty string, not {shown(value)}")
    return value


def base64_bytes(field: str, value: object) -> bytes:
    """The bytes that a string of strict base64 encodes."""
    encoded = text(field, value)
    try:
        data = base64.b64decode(encoded)
    except ValueError as error:
        raise ContinuationError(f"{field}: not base64 ({error})") from None
    if base64.b64encode(data).decode("ascii") != encoded:  # b64decode ignores invalid characters and padding
        raise ContinuationError(f"{field}: not strict base64: invalid characters or wrong padding")
    return data


def mapping(field: str, value: object) -> Mapping[str, Any]:
    """A mapping."""
    if not isinstance(value, Mapping):
        raise ContinuationError(f"{field}: must be a mapping, not {shown(value)}")
    return value


def one_of(field: str, value: Mapping[str, Any], names: tuple[str, str]) -> str:
    """The one of two keys that the mapping `value` has. A null value counts as absent; both or neither is an error."""
    present = [name for name in names if value.get(name) is not None]
    if len(present) != 1:
        raise ContinuationError(f"{field}: must have either {names[0]!r} or {names[1]!r}, not {present or 'neither'}")
    return present[0]


def shown(value: object) -> str:
    """A short form of the value for an error message."""
    if isinstance(value, str):
        return repr(value[:40])
    if value is None or isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**64):
        return repr(value)
    return f"an int of {value.bit_length()} bits" if isinstance(value, int) else f"a {type(value).__name__}"
