"""Versions of installed packages."""

from __future__ import annotations

import importlib.metadata


def version_of(package: str) -> str:
    """The version of an installed package, read without importing it; empty if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
