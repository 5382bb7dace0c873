"""Idempotency keys: texts of users that name a request, so that it may be repeated."""

from __future__ import annotations

import hashlib

from tasks.errors import SpecError

LONGEST_KEY = 200


def check_key(key: object) -> str:
    """Return `key` if it is valid.

    Raises:
        SpecError: it is not.
    """
    if not isinstance(key, str) or not 1 <= len(key) <= LONGEST_KEY or not key.isprintable():
        raise SpecError(f"idempotency key: {key!r:.60} must have 1 to {LONGEST_KEY} printable characters")
    return key


def request_of(key: str | None) -> str:
    """The token of the request that `key` names; '' for a request without a key.

    Raises:
        SpecError: an invalid key.
    """
    return "" if key is None else f"key {hashlib.sha256(check_key(key).encode()).hexdigest()}"
