"""The format version of everything that is stored or sent: `major.minor`; absent means 0.1.

A reader ignores keys that it does not know, so a newer minor version is readable. A newer major version is refused.
"""

from __future__ import annotations

import re

FORMAT = "0.2"
_FIRST = "0.1"
_FORMAT = re.compile(r"(\d{1,6})\.(\d{1,6})")


def is_newer(stored: object) -> bool:
    """Whether the format version `stored` has a newer major than ours; None means 0.1.

    Raises:
        ValueError: `stored` is not `major.minor` as text.
    """
    return _major(_FIRST if stored is None else stored) > _major(FORMAT)


def _major(version: object) -> int:
    match = _FORMAT.fullmatch(version) if isinstance(version, str) else None
    if match is None:
        raise ValueError(f"format is {version!r:.60}; it must be text such as {FORMAT!r}")
    return int(match[1])
