"""The version of the stored data formats, `major.minor`, and which versions this code can read."""

from __future__ import annotations

import re

FORMAT = "0.2"
FIRST_FORMAT = "0.1"  # wrote no version
FORMAT_OF_JOBS = "1.0"
"""Of job records that say what workers of an earlier version would ignore: they leave these alone."""
MAJOR = int(FORMAT.partition(".")[0])
MAJOR_OF_JOBS = int(FORMAT_OF_JOBS.partition(".")[0])

_VERSION = re.compile(r"([0-9]+)\.[0-9]+")


def is_newer_major(version: object, *, readable: int = MAJOR) -> bool:
    """Whether stored data has a newer major version than `readable`; a newer minor version is readable.

    version: the stored text, or None for data without a version, which is 0.1.

    Raises:
        ValueError: `version` is not `major.minor` text; the data is damaged.
    """
    version = FIRST_FORMAT if version is None else version
    match = _VERSION.fullmatch(version) if isinstance(version, str) else None
    if match is None:
        raise ValueError(f"format is {str(version)[:40]!r}; it must be text like {FORMAT!r}")
    return int(match[1]) > readable
